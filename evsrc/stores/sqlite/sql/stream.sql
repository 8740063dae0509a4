-- ?1 key
SELECT category, id, version, crc FROM evsrc_stream WHERE key = ?
