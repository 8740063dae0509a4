-- ?1 the new last position, ?2 checksum, ?3 the last position before
UPDATE evsrc_log SET head = ?, crc = ? WHERE key = 0 AND head = ?
