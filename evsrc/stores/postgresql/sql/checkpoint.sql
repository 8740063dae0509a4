SELECT position, crc FROM @evsrc_checkpoint WHERE name = $1
