-- What folding needs; the row of nothing else is the stream's version. (The limits keep
-- each part of the union in one process, and so in order.)
(SELECT version::int, NULL, NULL
   FROM @evsrc_event
  WHERE category = $1 AND stream_id = $2
  ORDER BY version DESC LIMIT 1)
UNION ALL
(SELECT crc, type, data
   FROM @evsrc_event
  WHERE category = $1 AND stream_id = $2 AND version > $3
  ORDER BY version LIMIT 4611686018427387904)
