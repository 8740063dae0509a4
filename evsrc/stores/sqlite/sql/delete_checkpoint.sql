-- ?1 name
DELETE FROM evsrc_checkpoint WHERE name = ?
