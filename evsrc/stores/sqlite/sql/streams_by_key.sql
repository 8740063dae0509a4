-- ?1 JSON array of keys
SELECT s.key, s.category, s.id, s.version, s.content, s.crc
  FROM json_each(?) AS asked CROSS JOIN evsrc_stream AS s ON s.key = asked.value
