-- evsrc_append_one without tags and conditions, at an expected version, if nobody else is
-- writing: one statement costs the server less than a function with four. $1 lossy,
-- $2 category, $3 stream id, $4 expected version, $5 event id, $6 type, $7 metadata,
-- $8 data, $9 and $10 checksums. Gives nothing, and writes nothing, if the lock is held
-- or there is more to say (ask evsrc_append).
--
-- It sees the log as it was before it had the lock. Whatever was written to the stream in
-- between has the version that this event wants, which then is a unique violation.
WITH placed AS (
  UPDATE @evsrc_log SET head = head + 1
   WHERE key = 0 AND ordering = 'serial'
     AND ($1::boolean OR current_setting('synchronous_commit') <> 'off')
     AND coalesce((SELECT version FROM @evsrc_event
                    WHERE category = $2 AND stream_id = $3 AND version >= $4
                    ORDER BY version DESC LIMIT 1), 0) = $4
     AND pg_try_advisory_xact_lock(7701, '@evsrc_event'::regclass::oid::int)
  RETURNING head AS position, $4 + 1 AS version,
            (date_part('epoch', clock_timestamp()) * 1000000)::bigint AS at
)
INSERT INTO @evsrc_event (position, version, at, crc, seal, event_id,
                          category, stream_id, type, meta, data)
SELECT position, version, at,
       (($9::bigint + version * 1000003) % 4294967291 - 2147483648)::int,
       (($10::bigint + position * 1000003 + at % 4294967291) % 4294967291
         - 2147483648)::int,
       $5, $2, $3, $6, $7, $8
  FROM placed
RETURNING position, at
