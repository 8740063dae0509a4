"""The pure core: deciders, views, events, expectations, codecs. No I/O here."""
