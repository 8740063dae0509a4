-- ?1 name
SELECT position FROM evsrc_checkpoint WHERE name = ?1
