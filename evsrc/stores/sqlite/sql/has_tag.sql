-- ?1 tag's key, ?2 type, ?3 position
SELECT 1 FROM evsrc_tag WHERE tag = ? AND type = ? AND position = ?
