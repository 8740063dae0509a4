-- What subscriptions put aside, and which worker may run which of them.
-- Times are microseconds since 1970 in UTC; crc is CRC-32 (see checks.py). No second
-- index: nothing could hold it against the table when a letter is read.

CREATE TABLE evsrc_dead_letter (
  subscription    TEXT    NOT NULL,
  event_id        BLOB    NOT NULL,
  type            TEXT    NOT NULL,
  data            BLOB    NOT NULL,
  error           TEXT    NOT NULL,
  stacktrace      TEXT,
  attempts        INTEGER NOT NULL,
  first_failed_at INTEGER NOT NULL,
  last_failed_at  INTEGER NOT NULL,
  status          TEXT    NOT NULL,
  resolved_at     INTEGER,
  resolved_by     TEXT,
  category        TEXT,
  stream_id       TEXT,
  position        INTEGER NOT NULL,
  crc             INTEGER NOT NULL,
  PRIMARY KEY (subscription, event_id)
) WITHOUT ROWID;

-- owner: NULL when it was released. The row stays, so that the token grows for ever. It
-- is found in two structures (table and index), so that it cannot vanish unnoticed.
CREATE TABLE evsrc_lease (
  name  TEXT PRIMARY KEY,
  owner TEXT,
  token INTEGER NOT NULL,
  until INTEGER NOT NULL,
  crc   INTEGER NOT NULL
);

CREATE VIEW dead_letters AS
SELECT subscription, position, category, stream_id, type,
       CAST(data AS TEXT) AS data, error, stacktrace, attempts, status,
       strftime('%Y-%m-%dT%H:%M:%SZ', first_failed_at / 1000000, 'unixepoch')
         AS first_failed_at,
       strftime('%Y-%m-%dT%H:%M:%SZ', last_failed_at / 1000000, 'unixepoch')
         AS last_failed_at,
       strftime('%Y-%m-%dT%H:%M:%SZ', resolved_at / 1000000, 'unixepoch')
         AS resolved_at,
       resolved_by,
       lower(substr(hex(event_id), 1, 8) || '-' || substr(hex(event_id), 9, 4) || '-'
         || substr(hex(event_id), 13, 4) || '-' || substr(hex(event_id), 17, 4) || '-'
         || substr(hex(event_id), 21)) AS event_id
  FROM evsrc_dead_letter;

CREATE VIEW leases AS
SELECT name, owner, token,
       strftime('%Y-%m-%dT%H:%M:%SZ', until / 1000000, 'unixepoch') AS until
  FROM evsrc_lease;
