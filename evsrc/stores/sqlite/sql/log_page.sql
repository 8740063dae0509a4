-- ?1 after this position, ?2 up to this position, ?3 limit
SELECT position, stream, version, type, id, at, meta, data, crc, seal
  FROM evsrc_event WHERE position > ? AND position <= ? ORDER BY position LIMIT ?
