-- The row of nothing else is the stream's version, in the same snapshot.
(SELECT version, NULL, NULL, NULL, NULL, NULL, NULL, NULL
   FROM @evsrc_event
  WHERE category = $1 AND stream_id = $2
  ORDER BY version DESC LIMIT 1)
UNION ALL
(SELECT position, version, at,
        (crc::bigint + seal - at % 4294967291
          - (version % 4294967291 + position % 4294967291) * 1000003) % 4294967291,
        uuid_send(event_id),
        textsend(category) || E'\\x00'::bytea || textsend(stream_id)
          || E'\\x00'::bytea || textsend(type), meta, data
   FROM @evsrc_event
  WHERE category = $1 AND stream_id = $2 AND version > $3
  ORDER BY version LIMIT $4)
