-- ?1 event id
SELECT position, envelope, opens, meta, data
  FROM evsrc_event WHERE substr(envelope, 1, 16) = ?
