-- ?1 tag's key, ?2 type, ?3 position
INSERT INTO evsrc_tag (tag, type, position) VALUES (?, ?, ?)
