-- ?1 position, ?2 now, ?3 checksum, ?4 name, ?5 position before, ?6 its checksum
UPDATE evsrc_checkpoint SET position = ?, saved_at = ?, crc = ?
 WHERE name = ? AND position = ? AND crc = ?
