-- ?1 position; what a query asks about
SELECT c.name, t.name, e.meta FROM evsrc_event AS e
  JOIN evsrc_name AS c ON c.key = e.category JOIN evsrc_name AS t ON t.key = e.type
 WHERE e.position = ?
