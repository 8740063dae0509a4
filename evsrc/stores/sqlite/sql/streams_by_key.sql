-- ?1 JSON array of keys
SELECT key, category, id, version, content, crc FROM evsrc_stream
 WHERE key IN (SELECT value FROM json_each(?))
