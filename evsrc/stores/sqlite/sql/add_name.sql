-- ?1 key, ?2 name, ?3 checksum
INSERT INTO evsrc_name (key, name, crc) VALUES (?, ?, ?)
