-- The head and the page in one row, so of one snapshot; each of the page's columns in
-- one value, because a record an event is what costs the client most. No text has a byte
-- 255, and no name a 0.
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
         ORDER BY position LIMIT $3) AS page
