-- ?1 the new last position, ?2 checksum
UPDATE evsrc_log SET head = ?, crc = ? WHERE key = 0
