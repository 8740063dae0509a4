-- $1 lossy, $2 milliseconds to wait for a lock, $3 name, $4 position before,
-- $5 its checksum, $6 position, $7 its checksum, $8 writer. Gives nothing if there is
-- more to say about it than that it is done (ask evsrc_append).
UPDATE @evsrc_checkpoint AS c
   SET position = $6, crc = $7, writer = $8, saved_at = clock_timestamp()
  FROM (SELECT set_config('lock_timeout', CASE current_setting('lock_timeout')
                 WHEN '0' THEN $2::int::text ELSE current_setting('lock_timeout') END,
               true) AS lock_timeout) AS waiting
 WHERE c.name = $3 AND c.position = $4 AND c.crc = $5
   AND waiting.lock_timeout IS NOT NULL
   AND ($1 OR current_setting('synchronous_commit') <> 'off')
   AND current_setting('transaction_isolation') = 'read committed'
RETURNING true
