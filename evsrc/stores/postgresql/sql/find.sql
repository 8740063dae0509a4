SELECT position, version, at, crc::bigint + seal, uuid_send(event_id),
        textsend(category) || E'\\x00'::bytea || textsend(stream_id)
          || E'\\x00'::bytea || textsend(type), meta, data
  FROM @evsrc_event WHERE event_id = $1
