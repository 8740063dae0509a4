SELECT owner, token, until, crc,
       (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now
  FROM @evsrc_lease WHERE name = $1 FOR UPDATE
