SELECT head FROM @evsrc_log WHERE key = 0
