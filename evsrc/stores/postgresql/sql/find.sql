SELECT position, version, at,
        (crc::bigint + seal - at % 4294967291
          - (version % 4294967291 + position % 4294967291) * 1000003) % 4294967291,
        uuid_send(event_id),
        textsend(category) || E'\\x00'::bytea || textsend(stream_id)
          || E'\\x00'::bytea || textsend(type), meta, data
  FROM @evsrc_event WHERE event_id = $1
