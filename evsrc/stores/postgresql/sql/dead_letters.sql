SELECT subscription, uuid_send(event_id), type, data, error, stacktrace, attempts,
       first_failed_at, last_failed_at, status, resolved_at, resolved_by, category,
       stream_id, position, crc
  FROM @evsrc_dead_letter
 WHERE ($1::text IS NULL OR subscription = $1) AND ($2::text IS NULL OR status = $2)
   AND ($4::text IS NULL OR (category = $4 AND stream_id = $5))
 ORDER BY CASE WHEN $4::text IS NULL THEN first_failed_at END, position, event_id
 LIMIT $3
