-- ?1 key, ?2 category, ?3 id, ?4 version, ?5 checksum
INSERT INTO evsrc_stream (key, category, id, version, crc) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET version = excluded.version, crc = excluded.crc
