-- ?1 JSON array of positions
SELECT position, envelope, meta, data
  FROM evsrc_event WHERE position IN (SELECT value FROM json_each(?)) ORDER BY position
