-- What folding needs; the row without a type is the stream's version, and the position
-- of that. (The limits keep each part of the union in one process, and so in order.)
(SELECT version::int, NULL, int8send(position)
   FROM @evsrc_event
  WHERE category = $1 AND stream_id = $2
  ORDER BY version DESC LIMIT 1)
UNION ALL
(SELECT crc, type, data
   FROM @evsrc_event
  WHERE category = $1 AND stream_id = $2 AND version > $3
  ORDER BY version LIMIT 4611686018427387904)
