-- Beside the head: rows of these categories, of these types, or of both in a pair.
SELECT head, NULL, NULL, NULL, NULL,
        NULL, NULL, NULL, NULL, NULL
  FROM @evsrc_log WHERE key = 0
UNION ALL
(SELECT position, category, stream_id, version, type,
        uuid_send(event_id), at, meta, data, crc::bigint + seal
   FROM @evsrc_event
  WHERE position > $1 AND position <= $2
    AND (category = ANY ($4) OR type = ANY ($5)
         OR (category, type) IN (SELECT * FROM unnest($6::text[], $7::text[])))
  ORDER BY position LIMIT $3)
