-- ?1 name
SELECT version, schema, state, crc FROM evsrc_snapshot WHERE name = ?
