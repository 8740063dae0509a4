-- ?1 name, ?2 position, ?3 now, ?4 checksum
INSERT INTO evsrc_checkpoint (name, position, saved_at, crc) VALUES (?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET position = excluded.position,
  saved_at = excluded.saved_at, crc = excluded.crc
