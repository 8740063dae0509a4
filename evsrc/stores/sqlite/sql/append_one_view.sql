-- What append_one.sql inserts into; its trigger writes instead.
CREATE TEMP VIEW evsrc_append_one (position, stream, version, category, type, at,
  envelope, meta, data, head_crc, content, stream_crc)
AS SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
