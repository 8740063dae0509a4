-- $1 the start of the name; COLLATE "C": in the same order everywhere
SELECT name, owner, token, until, crc,
       (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now
  FROM @evsrc_lease WHERE starts_with(name, $1) ORDER BY name COLLATE "C"
