-- ?1 JSON array of positions, in whose order they come
SELECT e.position, e.envelope, e.opens, e.meta, e.data
  FROM json_each(?) AS asked CROSS JOIN evsrc_event AS e ON e.position = asked.value
