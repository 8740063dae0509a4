-- Where the index of tags and the tags of the events are not the same.
SELECT position FROM (
  SELECT @evsrc_tag_key(tag) AS tag, type, position
    FROM @evsrc_event, @evsrc_tags(meta) AS tag) AS recorded
  FULL JOIN @evsrc_tag AS indexed USING (tag, type, position)
 WHERE recorded IS NULL OR indexed IS NULL
 GROUP BY position ORDER BY position LIMIT 20
