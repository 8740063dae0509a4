-- ?1 key, ?2 category, ?3 id, ?4 version, ?5 content, ?6 checksum
INSERT INTO evsrc_stream (key, category, id, version, content, crc)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET version = excluded.version,
  content = excluded.content, crc = excluded.crc
