-- ?1 stream, ?2 after this version
SELECT type, data, crc FROM evsrc_event
 WHERE stream = ?1 AND version > ?2 ORDER BY version
