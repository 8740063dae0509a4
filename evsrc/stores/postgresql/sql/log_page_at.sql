-- Like log_page: from $1 to $2 up to $3 events, $4 backward, of what $5 to $7 ask for.
SELECT (SELECT head FROM @evsrc_log WHERE key = 0),
       string_agg(int8send(position), ''), string_agg(int8send(version), ''),
       string_agg(int8send(at), ''),
       string_agg(int8send((crc::bigint + seal - at % 4294967291
         - (version % 4294967291 + position % 4294967291) * 1000003) % 4294967291), ''),
       string_agg(uuid_send(event_id), ''),
       string_agg(textsend(category) || E'\\x00'::bytea || textsend(stream_id)
                  || E'\\x00'::bytea || textsend(type), E'\\xff'::bytea),
       array_agg(meta), array_agg(data)
  FROM (SELECT position, version, at, crc, seal, event_id,
               category, stream_id, type, meta, data
          FROM @evsrc_event
         WHERE position = ANY ((
           SELECT @evsrc_positions($1, $2, $3, $4, $5, $6, $7::text::jsonb))::bigint[])
         ORDER BY CASE WHEN $4 THEN -position ELSE position END) AS page
