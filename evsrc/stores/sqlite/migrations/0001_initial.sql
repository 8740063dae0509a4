-- The log, its streams, and what subscriptions and snapshots keep beside them.
-- Times are microseconds since 1970 in UTC; crc, content and the end of an
-- envelope are CRC-32 (see checks.py).

CREATE TABLE evsrc_schema (
  version    INTEGER PRIMARY KEY,
  applied_at INTEGER NOT NULL
);

-- One row: the last position that was given out. Positions are dense.
CREATE TABLE evsrc_log (
  key  INTEGER PRIMARY KEY CHECK (key = 0),
  head INTEGER NOT NULL,
  crc  INTEGER NOT NULL
);
INSERT INTO evsrc_log (key, head, crc) VALUES (0, 0, 4231409650);

-- Names of categories and event types, so that an event row holds a small number.
CREATE TABLE evsrc_name (
  key  INTEGER PRIMARY KEY,
  name TEXT    NOT NULL UNIQUE,
  crc  INTEGER NOT NULL
);

-- key: a 63-bit hash of category and id, so that a stream is found in two structures
-- that can be held against each other (here, and in evsrc_event_stream).
CREATE TABLE evsrc_stream (
  key      INTEGER PRIMARY KEY,
  category TEXT    NOT NULL,
  id       TEXT    NOT NULL,
  version  INTEGER NOT NULL,
  content  INTEGER NOT NULL,
  crc      INTEGER NOT NULL
);

-- envelope: id, position, stream, version, time, type, what the other values are checked
-- by, and a checksum of itself, packed (see checks.py), so that a reader of the log
-- fetches one value instead of many. The columns before it are for what SQL looks for.
-- opens: of a stream's first event the stream's category, NUL, id and the byte FF, else
-- empty, so that who reads the log from its beginning looks for no stream elsewhere.
CREATE TABLE evsrc_event (
  position INTEGER PRIMARY KEY,
  stream   INTEGER NOT NULL,
  version  INTEGER NOT NULL,
  category INTEGER NOT NULL,
  type     INTEGER NOT NULL,
  at       INTEGER NOT NULL,
  envelope BLOB    NOT NULL,
  opens    BLOB    NOT NULL,
  meta     BLOB,
  data     BLOB    NOT NULL
);
CREATE UNIQUE INDEX evsrc_event_stream ON evsrc_event (stream, version);
CREATE UNIQUE INDEX evsrc_event_id ON evsrc_event (substr(envelope, 1, 16));

CREATE TRIGGER evsrc_event_is_a_fact_update BEFORE UPDATE ON evsrc_event
BEGIN SELECT RAISE(ABORT, 'events are facts: they are never changed'); END;
CREATE TRIGGER evsrc_event_is_a_fact_delete BEFORE DELETE ON evsrc_event
BEGIN SELECT RAISE(ABORT, 'events are facts: they are never deleted'); END;

CREATE TABLE evsrc_checkpoint (
  name     TEXT PRIMARY KEY,
  position INTEGER NOT NULL,
  saved_at INTEGER NOT NULL,
  crc      INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE evsrc_snapshot (
  name     TEXT PRIMARY KEY,
  version  INTEGER NOT NULL,
  schema   INTEGER NOT NULL,
  state    BLOB    NOT NULL,
  crc      INTEGER NOT NULL,
  saved_at INTEGER NOT NULL
);

-- For people: `sqlite3 events.db 'SELECT * FROM events'`, datasette, DB browsers.
CREATE VIEW events AS
SELECT e.position,
       s.category,
       s.id AS stream_id,
       e.version,
       t.name AS type,
       CAST(e.data AS TEXT) AS data,
       CAST(e.meta AS TEXT) AS metadata,
       strftime('%Y-%m-%dT%H:%M:%S', e.at / 1000000, 'unixepoch')
         || printf('.%06dZ', e.at % 1000000) AS recorded_at,
       lower(substr(hex(e.envelope), 1, 8) || '-' || substr(hex(e.envelope), 9, 4)
         || '-' || substr(hex(e.envelope), 13, 4)
         || '-' || substr(hex(e.envelope), 17, 4)
         || '-' || substr(hex(e.envelope), 21, 12)) AS event_id
  FROM evsrc_event AS e
  JOIN evsrc_stream AS s ON s.key = e.stream
  JOIN evsrc_name AS t ON t.key = e.type;

CREATE VIEW streams AS
SELECT category, id AS stream_id, version FROM evsrc_stream;

CREATE VIEW checkpoints AS
SELECT name, position,
       strftime('%Y-%m-%dT%H:%M:%SZ', saved_at / 1000000, 'unixepoch') AS saved_at
  FROM evsrc_checkpoint;
