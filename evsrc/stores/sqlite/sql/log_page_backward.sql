-- ?1 after this position, ?2 up to this position, ?3 limit
SELECT stream, version, type, id, at, meta, data, seal
  FROM evsrc_event WHERE position > ? AND position <= ?
 ORDER BY position DESC LIMIT ?
