-- ?1 the new last position, ?2 checksum
UPDATE evsrc_log SET head = ?1, crc = ?2 WHERE key = 0
