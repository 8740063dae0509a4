-- ?1 subscription
SELECT category, stream_id, min(position) FROM evsrc_dead_letter
 WHERE subscription = ? AND status <> 'resolved' AND category IS NOT NULL
 GROUP BY category, stream_id
