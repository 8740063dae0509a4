-- ?1 key, ?2 category, ?3 id, ?4 version, ?5 checksum
INSERT INTO evsrc_stream (key, category, id, version, crc) VALUES (?1, ?2, ?3, ?4, ?5)
ON CONFLICT (key) DO UPDATE SET version = excluded.version, crc = excluded.crc
