-- ?1 event id
SELECT position, stream, version, type, id, at, meta, data, crc, seal
  FROM evsrc_event WHERE id = ?
