-- The row of nothing else is the head, so that it and the page are of one snapshot.
SELECT head, NULL, NULL, NULL, NULL,
        NULL, NULL, NULL, NULL, NULL
  FROM @evsrc_log WHERE key = 0
UNION ALL
(SELECT position, category, stream_id, version, type,
        uuid_send(event_id), at, meta, data, crc::bigint + seal
   FROM @evsrc_event
  WHERE position > $1 AND position <= $2
  ORDER BY position LIMIT $3)
