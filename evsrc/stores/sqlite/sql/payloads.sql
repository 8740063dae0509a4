-- ?1 stream, ?2 after this version
SELECT type, data, crc FROM evsrc_event
 WHERE stream = ? AND version > ? ORDER BY version
