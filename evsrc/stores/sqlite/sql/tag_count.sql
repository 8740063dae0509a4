-- ?1 tag's key, ?2 type, ?3 after this position, ?4 up to this one, ?5 count no further
SELECT count(*) FROM (
  SELECT 1 FROM evsrc_tag
   WHERE tag = ? AND type = ? AND position > ? AND position <= ? LIMIT ?)
