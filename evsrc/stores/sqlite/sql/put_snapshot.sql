-- ?1 name, ?2 version, ?3 schema, ?4 state, ?5 checksum, ?6 now
INSERT INTO evsrc_snapshot (name, version, schema, state, crc, saved_at)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET version = excluded.version, schema = excluded.schema,
  state = excluded.state, crc = excluded.crc, saved_at = excluded.saved_at
