SELECT position, category, stream_id, version, type,
        uuid_send(event_id), at, meta, data, crc::bigint + seal
  FROM @evsrc_event WHERE event_id = $1
