-- The last position of the log.
SELECT head FROM evsrc_log WHERE key = 0
