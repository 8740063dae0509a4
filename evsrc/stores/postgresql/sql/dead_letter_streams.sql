SELECT DISTINCT category, stream_id FROM @evsrc_dead_letter
 WHERE subscription = $1 AND status <> 'resolved' AND category IS NOT NULL
