-- ?1 name
DELETE FROM evsrc_snapshot WHERE name = ?
