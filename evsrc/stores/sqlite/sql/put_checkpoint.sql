-- ?1 name, ?2 position, ?3 now
INSERT INTO evsrc_checkpoint (name, position, saved_at) VALUES (?1, ?2, ?3)
ON CONFLICT (name) DO UPDATE SET position = excluded.position, saved_at = excluded.saved_at
