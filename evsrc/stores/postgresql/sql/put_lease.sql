UPDATE @evsrc_lease SET owner = $2, token = $3, until = $4, crc = $5 WHERE name = $1
