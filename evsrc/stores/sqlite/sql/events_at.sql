-- ?1 JSON array of positions
SELECT position, stream, version, type, id, at, meta, data, seal
  FROM evsrc_event WHERE position IN (SELECT value FROM json_each(?)) ORDER BY position
