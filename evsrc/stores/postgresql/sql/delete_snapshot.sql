DELETE FROM @evsrc_snapshot WHERE name = $1
