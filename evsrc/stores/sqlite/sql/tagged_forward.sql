-- ?1 tag's key, ?2 type, ?3 after this position, ?4 up to this one, ?5 JSON array of the
-- keys of the other tags, ?6 JSON array of categories' keys or null, ?7 limit
SELECT position FROM evsrc_tag AS a
 WHERE tag = ?1 AND type = ?2 AND position > ?3 AND position <= ?4
   AND NOT EXISTS (
     SELECT 1 FROM json_each(?5) AS other WHERE NOT EXISTS (
       SELECT 1 FROM evsrc_tag AS b
        WHERE b.tag = other.value AND b.type = ?2 AND b.position = a.position))
   AND (?6 IS NULL OR (SELECT category FROM evsrc_event AS e
                        WHERE e.position = a.position)
                      IN (SELECT value FROM json_each(?6)))
 ORDER BY position LIMIT ?7
