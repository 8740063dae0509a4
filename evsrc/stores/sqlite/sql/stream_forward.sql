-- ?1 stream, ?2 after this version, ?3 limit
SELECT position, type, id, at, meta, data, seal
  FROM evsrc_event WHERE stream = ? AND version > ? ORDER BY version LIMIT ?
