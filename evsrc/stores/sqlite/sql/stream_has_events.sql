-- ?1 stream
SELECT 1 FROM evsrc_event WHERE stream = ? LIMIT 1
