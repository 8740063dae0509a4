-- :subscription, :status, :category and :stream_id or null (all), :limit
SELECT subscription, event_id, type, data, error, stacktrace, attempts, first_failed_at,
       last_failed_at, status, resolved_at, resolved_by, category, stream_id, position,
       crc
  FROM evsrc_dead_letter
 WHERE (:subscription IS NULL OR subscription = :subscription)
   AND (:status IS NULL OR status = :status)
   AND (:category IS NULL OR (category = :category AND stream_id = :stream_id))
 ORDER BY CASE WHEN :category IS NULL THEN first_failed_at END, position, event_id
 LIMIT :limit
