SELECT ordering FROM @evsrc_log WHERE key = 0
