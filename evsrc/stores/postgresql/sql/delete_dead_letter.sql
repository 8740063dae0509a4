DELETE FROM @evsrc_dead_letter WHERE subscription = $1 AND event_id = $2
