-- ?1 stream
SELECT type, data FROM evsrc_event WHERE stream = ? ORDER BY version
