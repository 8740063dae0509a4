-- The log, and what subscriptions and snapshots keep beside it.
-- `at` counts microseconds since 1970 in UTC; crc and seal are checksums (see checks.py).

CREATE TABLE @evsrc_schema (
  version    int         PRIMARY KEY,
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- One row: how positions are given out, and (serial ordering) the last one.
CREATE TABLE @evsrc_log (
  key      smallint PRIMARY KEY CHECK (key = 0),
  ordering text     NOT NULL CHECK (ordering IN ('serial', 'concurrent')),
  head     bigint   NOT NULL
) WITH (fillfactor = 10);
INSERT INTO @evsrc_log (key, ordering, head) VALUES (0, '@ordering', 0);

-- Where positions come from with concurrent ordering. CACHE 1: a session that kept
-- numbers back would use them below a position that readers have passed.
CREATE SEQUENCE @evsrc_position AS bigint CACHE 1;

CREATE TABLE @evsrc_event (
  position  bigint PRIMARY KEY,
  version   bigint NOT NULL,
  at        bigint NOT NULL,
  crc       int    NOT NULL,
  seal      int    NOT NULL,
  event_id  uuid   NOT NULL,
  category  text   COLLATE "C" NOT NULL,
  stream_id text   COLLATE "C" NOT NULL,
  type      text   COLLATE "C" NOT NULL,
  meta      bytea,
  data      bytea  NOT NULL
);
CREATE UNIQUE INDEX @@evsrc_event_stream
  ON @evsrc_event (category, stream_id, version);
CREATE UNIQUE INDEX @@evsrc_event_id ON @evsrc_event (event_id);

CREATE FUNCTION @evsrc_event_is_a_fact() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'events are facts: they are never changed or deleted';
END $$;
CREATE TRIGGER @@evsrc_event_is_a_fact
  BEFORE UPDATE OR DELETE OR TRUNCATE ON @evsrc_event
  FOR EACH STATEMENT EXECUTE FUNCTION @evsrc_event_is_a_fact();

-- `writer` is the append that wrote the row: one that is sent again knows its own work.
CREATE TABLE @evsrc_checkpoint (
  name     text COLLATE "C" PRIMARY KEY,
  position bigint      NOT NULL,
  crc      bigint      NOT NULL,
  writer   uuid        NOT NULL,
  saved_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE @evsrc_snapshot (
  name     text COLLATE "C" PRIMARY KEY,
  version  bigint      NOT NULL,
  schema   bigint      NOT NULL,
  state    bytea       NOT NULL,
  crc      bigint      NOT NULL,
  saved_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The whole append: judge every job, write the accepted ones, say what became of each.
--
-- A job is one append; its writes and events follow one another in the arrays, in order.
-- _w_expected: a version, or -1 any, -2 a stream that exists. _also: what is to be
-- written beside events, as JSON objects that name their job. _careful: look for event
-- ids that are there already before inserting (without it they end the statement).
--
-- status: 0 appended, 1 conflict, 2 repeated, 3 an event id is used elsewhere,
-- 4 a checkpoint is elsewhere; about: the write of a conflict; told: the id or
-- position to report.
CREATE FUNCTION @evsrc_append(
  _concurrent boolean, _lossy boolean, _careful boolean,
  _jobs int, _categories text[], _stream_ids text[],
  _w_job int[], _w_stream int[], _w_count int[], _w_expected bigint[],
  _e_write int[], _e_id uuid[], _e_type text[], _e_meta bytea[], _e_data bytea[],
  _e_crc bigint[], _e_seal bigint[],
  _also json,
  OUT head bigint, OUT status int[], OUT about int[], OUT told text[],
  OUT w_version bigint[], OUT w_first bigint[], OUT w_last bigint[]
) LANGUAGE plpgsql
  SET plan_cache_mode = force_generic_plan  -- planning anew takes longer than the rest
AS $$
DECLARE
  _now     bigint;
  _writes  int := cardinality(_w_job);
  _version bigint[];        -- of each stream, as the jobs so far leave it
  _before  bigint[];
  _shift_v bigint[] := array_fill(NULL::bigint, ARRAY[_writes]);
  _shift_r bigint[] := array_fill(NULL::bigint, ARRAY[_writes]);
  _drawn   bigint[];        -- concurrent: the positions
  _base    bigint;          -- serial: the position before the first
  _total   int := 0;        -- events accepted so far
  _first_e int := 1;        -- the first event of the write in hand
  _w       int := 1;
  _job_w   int;             -- the first write of the job in hand
  _job_e   int;
  _s       int;
  _actual  bigint;
  _refused int;
  _id      uuid;
  _change  record;
  _found   record;
BEGIN
  IF NOT _lossy AND current_setting('synchronous_commit') = 'off' THEN
    RAISE EXCEPTION 'synchronous_commit is off' USING ERRCODE = 'EV001';
  END IF;
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'the transaction is %', current_setting('transaction_isolation')
      USING ERRCODE = 'EV003';
  END IF;
  IF _concurrent THEN
    -- The floor: no position at or below it can still appear because of us. Readers
    -- stop below the lowest floor that is held. It is taken before a position is drawn.
    PERFORM pg_advisory_xact_lock_shared(
      '@evsrc_event'::regclass::oid::int,
      ((SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END
          FROM @evsrc_position) & 2147483647)::int);
  ELSE
    -- A statement of its own: what follows sees everything that the lock waited for.
    PERFORM pg_advisory_xact_lock(7701, '@evsrc_event'::regclass::oid::int);
  END IF;
  SELECT array_agg(coalesce(v, 0) ORDER BY n) INTO _version
    FROM unnest(_categories, _stream_ids) WITH ORDINALITY AS s(c, i, n)
    LEFT JOIN LATERAL (
      SELECT e.version AS v FROM @evsrc_event AS e
       WHERE e.category = s.c AND e.stream_id = s.i
       ORDER BY e.version DESC LIMIT 1) AS newest ON true;
  status := array_fill(0, ARRAY[_jobs]);
  about := array_fill(NULL::int, ARRAY[_jobs]);
  told := array_fill(NULL::text, ARRAY[_jobs]);
  w_version := _shift_v;
  w_first := _shift_v;
  w_last := _shift_v;

  FOR _job IN 1 .. _jobs LOOP
    _before := _version;
    _job_w := _w;
    _job_e := _first_e;
    _refused := 0;
    WHILE _w <= _writes AND _w_job[_w] = _job LOOP
      _s := _w_stream[_w];
      _actual := _version[_s];
      IF _refused = 0 AND NOT (_w_expected[_w] = _actual OR _w_expected[_w] = -1
                               OR (_w_expected[_w] = -2 AND _actual > 0)) THEN
        _refused := 1;
        about[_job] := _w;
        told[_job] := _actual;
      END IF;
      _shift_v[_w] := _actual - _first_e + 1;
      _shift_r[_w] := _total - _job_e + 1;
      w_first[_w] := _total + _first_e - _job_e + 1;
      _version[_s] := _actual + _w_count[_w];
      w_version[_w] := _version[_s];
      _first_e := _first_e + _w_count[_w];
      w_last[_w] := _total + _first_e - _job_e;
      _w := _w + 1;
    END LOOP;
    IF _also IS NOT NULL AND _refused = 0 THEN
      FOR _change IN SELECT a.*, c.position AS found, c.writer AS found_writer
          FROM json_to_recordset(_also) AS a(
            job int, kind text, name text, after bigint, writer uuid)
          LEFT JOIN @evsrc_checkpoint AS c
            ON a.kind = 'checkpoint' AND c.name = a.name
         WHERE a.job = _job AND a.after IS NOT NULL LOOP
        IF coalesce(_change.found, 0) <> _change.after THEN
          told[_job] := coalesce(_change.found, 0);
          IF _change.found_writer = _change.writer THEN
            _refused := 2;       -- this very append was here before
          ELSE
            _refused := 4;
            EXIT;
          END IF;
        END IF;
      END LOOP;
    END IF;
    IF _careful AND _refused = 0 AND _first_e > _job_e THEN
      SELECT e.event_id INTO _id FROM @evsrc_event AS e
       WHERE e.event_id = ANY (_e_id[_job_e : _first_e - 1]) LIMIT 1;
      IF _id IS NULL THEN
        SELECT i INTO _id FROM unnest(_e_id[_job_e : _first_e - 1]) AS i
         GROUP BY i HAVING count(*) > 1 LIMIT 1;
      END IF;
      IF _id IS NOT NULL THEN
        _refused := 3;
        told[_job] := _id;
      END IF;
    END IF;

    IF _refused = 0 THEN
      _total := _total + _first_e - _job_e;
      IF _also IS NOT NULL THEN
        FOR _change IN SELECT * FROM json_to_recordset(_also) AS a(
            job int, kind text, name text, position bigint, version bigint,
            schema bigint, state text, crc bigint, writer uuid)
           WHERE a.job = _job LOOP
          IF _change.kind = 'checkpoint' THEN
            INSERT INTO @evsrc_checkpoint AS c (name, position, crc, writer)
            VALUES (_change.name, _change.position, _change.crc, _change.writer)
            ON CONFLICT (name) DO UPDATE SET position = excluded.position,
              crc = excluded.crc, writer = excluded.writer,
              saved_at = excluded.saved_at;
          ELSE
            INSERT INTO @evsrc_snapshot AS s (name, version, schema, state, crc)
            VALUES (_change.name, _change.version, _change.schema,
                    decode(_change.state, 'base64'), _change.crc)
            ON CONFLICT (name) DO UPDATE SET version = excluded.version,
              schema = excluded.schema, state = excluded.state,
              crc = excluded.crc, saved_at = excluded.saved_at;
          END IF;
        END LOOP;
      END IF;
    ELSE
      status[_job] := _refused;
      _version := _before;
      FOR _i IN _job_w .. _w - 1 LOOP
        _shift_v[_i] := NULL;
      END LOOP;
      FOR _i IN _job_w .. _w - 1 LOOP
        -- the same events in the same place: this append was here before
        SELECT max(e.version) AS version, min(e.position) AS first,
               max(e.position) AS last INTO _found
          FROM unnest(_e_id[_job_e : _job_e + _w_count[_i] - 1])
               WITH ORDINALITY AS u(id, n)
          JOIN @evsrc_event AS e ON e.event_id = u.id
           AND e.category = _categories[_w_stream[_i]]
           AND e.stream_id = _stream_ids[_w_stream[_i]]
        HAVING count(*) = _w_count[_i] AND min(e.version - n) = max(e.version - n);
        _job_e := _job_e + _w_count[_i];
        IF _found.version IS NULL THEN
          EXIT;
        END IF;
        w_version[_i] := _found.version;
        w_first[_i] := _found.first;
        w_last[_i] := _found.last;
        IF _i = _w - 1 THEN
          status[_job] := 2;
        END IF;
      END LOOP;
    END IF;
  END LOOP;

  IF _total > 0 THEN
    IF _concurrent THEN
      SELECT array_agg(nextval('@evsrc_position')) INTO _drawn
        FROM generate_series(1, _total);
    ELSE
      UPDATE @evsrc_log AS l SET head = l.head + _total
       WHERE l.key = 0 AND l.ordering = 'serial' RETURNING l.head - _total INTO _base;
      IF _base IS NULL THEN
        RAISE EXCEPTION 'the ordering is not serial' USING ERRCODE = 'EV002';
      END IF;
      head := _base + _total;
    END IF;
    _now := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
    INSERT INTO @evsrc_event (position, version, at, crc, seal, event_id,
                              category, stream_id, type, meta, data)
    SELECT p, v, _now,
           ((e.crc + v * 1000003) % 4294967291 - 2147483648)::int,
           ((e.seal + p * 1000003 + _now % 4294967291) % 4294967291
             - 2147483648)::int,
           e.id, _categories[_w_stream[e.w]], _stream_ids[_w_stream[e.w]],
           e.type, e.meta, e.data
      FROM unnest(_e_write, _e_id, _e_type, _e_meta, _e_data, _e_crc, _e_seal)
             WITH ORDINALITY AS e(w, id, type, meta, data, crc, seal, n),
           LATERAL (SELECT _shift_v[e.w] + n AS v,
                           coalesce(_drawn[_shift_r[e.w] + n],
                                    _base + _shift_r[e.w] + n) AS p) AS place
     WHERE v IS NOT NULL
     ORDER BY _w_stream[e.w], n;  -- one order for all: waits cannot form a circle
    FOR _i IN 1 .. _writes LOOP
      IF _shift_v[_i] IS NOT NULL THEN
        w_first[_i] := coalesce(_drawn[w_first[_i]], _base + w_first[_i]);
        w_last[_i] := coalesce(_drawn[w_last[_i]], _base + w_last[_i]);
      END IF;
    END LOOP;
  END IF;
END $$;

-- Concurrent ordering: everything up to here is committed and visible, or never will
-- be. The last number drawn is read first, the floors that are held second.
CREATE FUNCTION @evsrc_watermark() RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  _drawn bigint;
  _below bigint;
BEGIN
  SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END
    INTO _drawn FROM @evsrc_position;
  SELECT max(d) INTO _below FROM (
    SELECT (_drawn - objid::bigint) & 2147483647 AS d FROM pg_locks
     WHERE locktype = 'advisory' AND objsubid = 2 AND granted
       AND classid = '@evsrc_event'::regclass::oid
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    ) AS floors WHERE d < 1073741824;
  RETURN _drawn - coalesce(_below, 0);
END $$;

-- For people: `SELECT * FROM evsrc_events` in psql.
CREATE FUNCTION @evsrc_text(_data bytea) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
  RETURN convert_from(_data, 'UTF8');
EXCEPTION WHEN character_not_in_repertoire OR untranslatable_character THEN
  RETURN encode(_data, 'hex');
END $$;

CREATE VIEW @evsrc_events AS
SELECT position, category, stream_id, version, type,
       @evsrc_text(data) AS data, @evsrc_text(meta) AS metadata,
       'epoch'::timestamptz + at * interval '1 microsecond' AS recorded_at, event_id
  FROM @evsrc_event;

CREATE VIEW @evsrc_streams AS
SELECT category, stream_id, max(version) AS version
  FROM @evsrc_event GROUP BY category, stream_id;

CREATE VIEW @evsrc_checkpoints AS
SELECT name, position, saved_at FROM @evsrc_checkpoint;
