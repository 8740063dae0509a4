-- ?1 after this position, ?2 up to this position,
-- ?3 JSON array of items [[category keys] or null, [type keys] or null], ?4 limit
SELECT position, envelope, opens, meta, data
  FROM evsrc_event
 WHERE position > ? AND position <= ?
   AND (category, type) IN (
     SELECT c.key, t.key FROM json_each(?) AS item
       JOIN evsrc_name AS c ON json_extract(item.value, '$[0]') IS NULL
         OR c.key IN (SELECT value FROM json_each(item.value, '$[0]'))
       JOIN evsrc_name AS t ON json_extract(item.value, '$[1]') IS NULL
         OR t.key IN (SELECT value FROM json_each(item.value, '$[1]')))
 ORDER BY position LIMIT ?
