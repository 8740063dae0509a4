INSERT INTO @evsrc_lease (name, token, until, crc) VALUES ($1, 0, 0, $2)
ON CONFLICT DO NOTHING
