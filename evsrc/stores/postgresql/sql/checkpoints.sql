SELECT name, position, crc FROM @evsrc_checkpoint ORDER BY name
