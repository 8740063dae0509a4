-- ?1 stream
SELECT 1 FROM evsrc_event WHERE stream = ?1 LIMIT 1
