-- ?1 stream, ?2 before this version, ?3 limit
SELECT position, envelope, opens, meta, data
  FROM evsrc_event WHERE stream = ? AND version < ? ORDER BY version DESC LIMIT ?
