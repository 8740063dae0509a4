-- ?1 and ?2 subscription or null, ?3 and ?4 status or null, ?5 limit
SELECT subscription, event_id, type, data, error, stacktrace, attempts, first_failed_at,
       last_failed_at, status, resolved_at, resolved_by, category, stream_id, position,
       crc
  FROM evsrc_dead_letter
 WHERE (? IS NULL OR subscription = ?) AND (? IS NULL OR status = ?)
 ORDER BY first_failed_at, position, event_id LIMIT ?
