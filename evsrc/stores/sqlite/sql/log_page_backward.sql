-- ?1 after this position, ?2 up to this position, ?3 limit
SELECT envelope, meta, data
  FROM evsrc_event WHERE position > ? AND position <= ?
 ORDER BY position DESC LIMIT ?
