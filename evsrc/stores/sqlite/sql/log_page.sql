-- ?1 after this position, ?2 up to this position, ?3 limit
SELECT position, envelope, opens, meta, data
  FROM evsrc_event WHERE position > ? AND position <= ? ORDER BY position LIMIT ?
