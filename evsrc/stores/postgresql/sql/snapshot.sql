SELECT version, schema, state, crc FROM @evsrc_snapshot WHERE name = $1
