SELECT name, owner, token, until, crc FROM @evsrc_lease ORDER BY name
