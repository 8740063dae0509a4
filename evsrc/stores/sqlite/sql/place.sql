-- ?1 event id
SELECT stream, version, position FROM evsrc_event WHERE id = ?
