-- The row of nothing else is the stream's version, in the same snapshot.
(SELECT version, NULL, NULL, NULL, NULL,
        NULL, NULL, NULL, NULL, NULL
   FROM @evsrc_event
  WHERE category = $1 AND stream_id = $2
  ORDER BY version DESC LIMIT 1)
UNION ALL
(SELECT position, category, stream_id, version, type,
        uuid_send(event_id), at, meta, data, crc::bigint + seal
   FROM @evsrc_event
  WHERE category = $1 AND stream_id = $2 AND version < $3
  ORDER BY version DESC LIMIT $4)
