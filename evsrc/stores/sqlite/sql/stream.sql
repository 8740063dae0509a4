-- ?1 key
SELECT category, id, version, content, crc FROM evsrc_stream WHERE key = ?
