-- ?1 stream, ?2 before this version, ?3 limit
SELECT position, type, id, at, meta, data, seal
  FROM evsrc_event WHERE stream = ? AND version < ? ORDER BY version DESC LIMIT ?
