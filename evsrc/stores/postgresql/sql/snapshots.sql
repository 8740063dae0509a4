SELECT name, version, schema, state, crc FROM @evsrc_snapshot ORDER BY name
