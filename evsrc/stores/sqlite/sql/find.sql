-- ?1 event id
SELECT position, stream, version, type, id, at, meta, data, seal
  FROM evsrc_event WHERE id = ?
