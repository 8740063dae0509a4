-- ?1 subscription
SELECT DISTINCT category, stream_id FROM evsrc_dead_letter
 WHERE subscription = ? AND status <> 'resolved' AND category IS NOT NULL
