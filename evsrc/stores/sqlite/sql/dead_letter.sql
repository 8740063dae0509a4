-- ?1 subscription, ?2 event id
SELECT subscription, event_id, type, data, error, stacktrace, attempts, first_failed_at,
       last_failed_at, status, resolved_at, resolved_by, category, stream_id, position,
       crc
  FROM evsrc_dead_letter WHERE subscription = ? AND event_id = ?
