SELECT category, stream_id, count(*) AS events, min(version) AS first,
       max(version) AS last
  FROM @evsrc_event GROUP BY category, stream_id
HAVING count(*) <> max(version) OR min(version) <> 1
 ORDER BY category, stream_id LIMIT 20
