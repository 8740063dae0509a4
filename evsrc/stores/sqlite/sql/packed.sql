-- What another statement finds, in its order, as one value a column.
-- The CASTs are there because group_concat makes a text of what it puts together.
SELECT count(*),
       CAST(group_concat(envelope, '') AS BLOB),
       CAST(group_concat(opens, '') AS BLOB),
       CAST(group_concat(meta, '') AS BLOB),
       CAST(group_concat(data, '') AS BLOB)
  FROM (@found)
