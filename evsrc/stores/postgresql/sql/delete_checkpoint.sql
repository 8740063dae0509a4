DELETE FROM @evsrc_checkpoint WHERE name = $1
