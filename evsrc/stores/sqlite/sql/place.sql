-- ?1 event id
SELECT stream, version, position FROM evsrc_event WHERE substr(envelope, 1, 16) = ?
