-- ?1 the new last position
UPDATE evsrc_log SET head = ?1 WHERE key = 0
