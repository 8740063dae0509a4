SELECT max(version) FROM @evsrc_schema
