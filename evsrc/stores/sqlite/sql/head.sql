-- The last position of the log.
SELECT head, crc FROM evsrc_log WHERE key = 0
