-- Like log_page: events of these categories, of these types, or of both in a pair.
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
         WHERE position > $1 AND position <= $2
           AND (category = ANY ($4) OR type = ANY ($5)
                OR (category, type) IN (SELECT * FROM unnest($6::text[], $7::text[])))
         ORDER BY position LIMIT $3) AS page
