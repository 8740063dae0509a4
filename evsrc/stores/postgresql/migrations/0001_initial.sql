-- The log, and what subscriptions and snapshots keep beside it.
-- `at` counts microseconds since 1970 in UTC; crc and seal are checksums (see checks.py).

CREATE TABLE @evsrc_schema (
  version    int         PRIMARY KEY,
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- One row: how positions are given out, and (serial ordering) the last one. No CHECK:
-- each append would parse it anew, which takes longer than the UPDATE itself.
CREATE TABLE @evsrc_log (
  key      smallint PRIMARY KEY,
  ordering text     NOT NULL,
  head     bigint   NOT NULL
) WITH (fillfactor = 10);
INSERT INTO @evsrc_log (key, ordering, head) VALUES (0, '@ordering', 0);

-- Where positions come from with concurrent ordering. CACHE 1: a session that kept
-- numbers back would use them below a position that readers have passed.
CREATE SEQUENCE @evsrc_position AS bigint MINVALUE 0 START 0 CACHE 1;
SELECT setval('@evsrc_position', 0);

-- The last number drawn. (`SELECT last_value` does not wait for a session that draws,
-- and shows for a moment a number up to 32 ahead, which a crash would go on from.)
CREATE FUNCTION @evsrc_drawn() RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  _drawn bigint := pg_sequence_last_value('@evsrc_position');
BEGIN
  IF _drawn IS NULL THEN  -- how PostgreSQL 17 says so
    RAISE insufficient_privilege
      USING MESSAGE = 'permission denied for sequence @evsrc_position';
  END IF;
  RETURN _drawn;
END $$;

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

-- What subscriptions put aside. crc is CRC-32 of the row (see rows.py).
CREATE TABLE @evsrc_dead_letter (
  subscription    text   COLLATE "C" NOT NULL,
  event_id        uuid   NOT NULL,
  type            text   NOT NULL,
  data            bytea  NOT NULL,
  error           text   NOT NULL,
  stacktrace      text,
  attempts        bigint NOT NULL,
  first_failed_at bigint NOT NULL,
  last_failed_at  bigint NOT NULL,
  status          text   NOT NULL,
  resolved_at     bigint,
  resolved_by     text,
  category        text,
  stream_id       text,
  position        bigint NOT NULL,
  crc             bigint NOT NULL,
  PRIMARY KEY (subscription, event_id)
);

-- Which worker may do what. owner: null when it was released; the row stays, so that
-- the token grows for ever.
CREATE TABLE @evsrc_lease (
  name  text   COLLATE "C" PRIMARY KEY,
  owner text,
  token bigint NOT NULL,
  until bigint NOT NULL,
  crc   bigint NOT NULL
);

-- Where events with tags are, by the first half of the tag's SHA-256. Event types come
-- before positions: a tag that very many events have is then as quickly searched for a
-- type as one that few have.
CREATE TABLE @evsrc_tag (
  tag      uuid   NOT NULL,
  type     text   COLLATE "C" NOT NULL,
  position bigint NOT NULL,
  PRIMARY KEY (tag, type, position)
);

CREATE FUNCTION @evsrc_tag_key(_tag text) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT
AS $$ SELECT encode(substr(sha256(convert_to(_tag, 'UTF8')), 1, 16), 'hex')::uuid $$;

-- The first positions from _after to _last (_backward: the last ones) of what is asked
-- for, each once and in order. A tag's types are walked through one step of the index
-- for each. What is asked for are, in the simplest and most frequent case (forward only),
-- _tags, each with the type of the same place in _types (null: with any). Otherwise they
-- are null, and _items is an array of {categories, types, tags}, each a list or null;
-- null: everything. Tags are keys.
CREATE FUNCTION @evsrc_positions(
  _after bigint, _last bigint, _limit bigint, _backward boolean,
  _tags uuid[], _types text[], _items jsonb
) RETURNS bigint[] LANGUAGE plpgsql STABLE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
  _item   jsonb;
  _tag    uuid;
  _others uuid[];
  _most   int;
  _few    int;
  _kinds  text[];
  _type   text;
  _within text[];
  _sign   int := CASE WHEN _backward THEN -1 ELSE 1 END;
  _found  bigint[] := '{}';
BEGIN
  IF _tags IS NOT NULL THEN
    RETURN ARRAY(
      WITH RECURSIVE asked(tag, wanted, type) AS (
        SELECT tag, wanted, coalesce(wanted,
                 (SELECT min(t.type) FROM @evsrc_tag AS t WHERE t.tag = given.tag))
          FROM unnest(_tags, _types) AS given(tag, wanted)
        UNION ALL
        SELECT tag, NULL, (SELECT min(t.type) FROM @evsrc_tag AS t
                            WHERE t.tag = asked.tag AND t.type > asked.type)
          FROM asked WHERE wanted IS NULL AND type IS NOT NULL)
      SELECT DISTINCT found.position FROM asked, LATERAL (
        SELECT t.position FROM @evsrc_tag AS t
         WHERE t.tag = asked.tag AND t.type = asked.type
           AND t.position > _after AND t.position <= _last
         ORDER BY t.position LIMIT _limit) AS found
       ORDER BY found.position LIMIT _limit);
  ELSIF _items IS NULL AND _backward THEN
    RETURN ARRAY(SELECT position FROM @evsrc_event
      WHERE position > _after AND position <= _last ORDER BY position DESC LIMIT _limit);
  ELSIF _items IS NULL THEN
    RETURN ARRAY(SELECT position FROM @evsrc_event
      WHERE position > _after AND position <= _last ORDER BY position LIMIT _limit);
  END IF;
  FOR _item IN SELECT value FROM jsonb_array_elements(_items) LOOP
    _tags := ARRAY(SELECT jsonb_array_elements_text(_item -> 'tags')::uuid);
    _types := ARRAY(SELECT jsonb_array_elements_text(_item -> 'types'));
    _within := ARRAY(SELECT jsonb_array_elements_text(_item -> 'categories'));
    IF cardinality(_tags) = 0 THEN
      IF _backward THEN
        _found := _found || ARRAY(SELECT position FROM @evsrc_event
          WHERE position > _after AND position <= _last
            AND (cardinality(_types) = 0 OR type = ANY (_types))
            AND (cardinality(_within) = 0 OR category = ANY (_within))
          ORDER BY position DESC LIMIT _limit);
      ELSE
        _found := _found || ARRAY(SELECT position FROM @evsrc_event
          WHERE position > _after AND position <= _last
            AND (cardinality(_types) = 0 OR type = ANY (_types))
            AND (cardinality(_within) = 0 OR category = ANY (_within))
          ORDER BY position LIMIT _limit);
      END IF;
      CONTINUE;
    END IF;
    _kinds := _types;
    IF cardinality(_types) = 0 THEN
      _type := '';  -- no name is empty
      LOOP
        SELECT t.type INTO _type FROM @evsrc_tag AS t
         WHERE t.tag = _tags[1] AND t.type > _type ORDER BY t.type LIMIT 1;
        EXIT WHEN NOT FOUND;
        _kinds := _kinds || _type;
      END LOOP;
    END IF;
    FOREACH _type IN ARRAY _kinds LOOP
      _tag := _tags[1];
      IF cardinality(_tags) > 1 THEN  -- the rarest is searched, the others looked up
        FOREACH _most IN ARRAY ARRAY[30, 1000] LOOP
          SELECT each, n INTO _tag, _few FROM unnest(_tags) AS each, LATERAL (
            SELECT count(*) AS n FROM (
              SELECT FROM @evsrc_tag AS t
               WHERE t.tag = each AND t.type = _type
                 AND t.position > _after AND t.position <= _last LIMIT _most) AS first
            ) AS counted ORDER BY n LIMIT 1;
          EXIT WHEN _few < _most;
        END LOOP;
      END IF;
      _others := array_remove(_tags, _tag);
      IF _backward THEN
        _found := _found || ARRAY(SELECT a.position FROM @evsrc_tag AS a
          WHERE a.tag = _tag AND a.type = _type
            AND a.position > _after AND a.position <= _last
            AND (cardinality(_others) = 0 OR NOT EXISTS (
              SELECT FROM unnest(_others) AS other WHERE NOT EXISTS (
                SELECT FROM @evsrc_tag AS b WHERE b.tag = other AND b.type = _type
                   AND b.position = a.position)))
            AND (cardinality(_within) = 0 OR (SELECT e.category FROM @evsrc_event AS e
                  WHERE e.position = a.position) = ANY (_within))
          ORDER BY a.position DESC LIMIT _limit);
      ELSE
        _found := _found || ARRAY(SELECT a.position FROM @evsrc_tag AS a
          WHERE a.tag = _tag AND a.type = _type
            AND a.position > _after AND a.position <= _last
            AND (cardinality(_others) = 0 OR NOT EXISTS (
              SELECT FROM unnest(_others) AS other WHERE NOT EXISTS (
                SELECT FROM @evsrc_tag AS b WHERE b.tag = other AND b.type = _type
                   AND b.position = a.position)))
            AND (cardinality(_within) = 0 OR (SELECT e.category FROM @evsrc_event AS e
                  WHERE e.position = a.position) = ANY (_within))
          ORDER BY a.position LIMIT _limit);
      END IF;
    END LOOP;
  END LOOP;
  RETURN ARRAY(SELECT p FROM (SELECT DISTINCT unnest(_found) AS p) AS once
    ORDER BY p * _sign LIMIT _limit);
END $$;

CREATE FUNCTION @evsrc_put_dead_letter(_letter @evsrc_dead_letter) RETURNS void
LANGUAGE sql AS $$
  INSERT INTO @evsrc_dead_letter AS d SELECT _letter.*
  ON CONFLICT (subscription, event_id) DO UPDATE SET type = excluded.type,
    data = excluded.data, error = excluded.error, stacktrace = excluded.stacktrace,
    attempts = excluded.attempts, first_failed_at = excluded.first_failed_at,
    last_failed_at = excluded.last_failed_at, status = excluded.status,
    resolved_at = excluded.resolved_at, resolved_by = excluded.resolved_by,
    category = excluded.category, stream_id = excluded.stream_id,
    position = excluded.position, crc = excluded.crc
$$;

-- The whole append: judge every job, write the accepted ones, say what became of each.
--
-- A job is one append; its writes and events follow one another in the arrays, in order.
-- _w_expected: a version, or -1 any, -2 a stream that exists. _also: what is to be
-- written beside events, as JSON objects that name their job. _t_*: the tags of events,
-- by the event's number. _conditions: JSON objects by the number of their write: `after`,
-- `items` (see evsrc_positions), and `rivals`: the numbers of events of earlier jobs that
-- stand against it if they are accepted. _careful: look for event ids that are there
-- already before inserting (without it they end the statement).
-- _wait: for how many milliseconds to wait for a lock, if the role has no limit of its
-- own; 0: for ever. _queued: concurrent ordering, after a lost race: let one such
-- append after the other have a stream.
--
-- status: 0 appended, 1 conflict, 2 repeated, 3 an event id is used elsewhere,
-- 4 a checkpoint is elsewhere, 5 a lease is lost, 6 a condition does not hold. base: serial ordering, what is to be
-- added to the positions of status 0. about: the write of a conflict; told: the id,
-- position or token to report.
CREATE FUNCTION @evsrc_append(
  _concurrent boolean, _lossy boolean, _wait int, _careful boolean, _queued boolean,
  _jobs int, _categories text[], _stream_ids text[],
  _w_job int[], _w_stream int[], _w_count int[], _w_expected bigint[],
  _e_write int[], _e_id uuid[], _e_type text[], _e_meta bytea[], _e_data bytea[],
  _e_crc bigint[], _e_seal bigint[],
  _t_event int[], _t_type text[], _t_tag uuid[],
  _conditions jsonb, _also json,
  OUT head bigint, OUT status int[], OUT about int[], OUT told text[],
  OUT w_version bigint[], OUT w_first bigint[], OUT w_last bigint[], OUT base bigint,
  OUT at bigint
) LANGUAGE plpgsql
-- Planning each call anew would take longer than running it; a plan made while the
-- table was empty must not scan it for ever.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
  _key     bigint;
  _floor   text := 'evsrc.floor_' || '@evsrc_event'::regclass::oid;
  _writes  int := cardinality(_w_job);
  _version bigint[];        -- of each stream, as the jobs so far leave it
  _before  bigint[];        -- the same, before the job in hand, if that has several writes
  _several boolean;
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
  _start   bigint;          -- the last position before this call, for conditions
BEGIN
  IF NOT _lossy AND current_setting('synchronous_commit') = 'off' THEN
    RAISE EXCEPTION 'synchronous_commit is off' USING ERRCODE = 'EV001';
  END IF;
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'the transaction is %', current_setting('transaction_isolation')
      USING ERRCODE = 'EV003';
  END IF;
  IF _wait > 0 AND current_setting('lock_timeout') = '0' THEN
    PERFORM set_config('lock_timeout', _wait::text, true);
  END IF;
  IF _queued THEN  -- before the floor: readers do not wait for the queue
    FOR _key IN SELECT DISTINCT hashtextextended(i, hashtextextended(
                         c, '@evsrc_event'::regclass::oid::bigint))
                  FROM unnest(_categories, _stream_ids) AS s(c, i) ORDER BY 1 LOOP
      PERFORM pg_advisory_xact_lock(_key);
    END LOOP;
  END IF;
  IF _concurrent THEN
    -- A condition over the log has to see every append that comes before it, so it waits
    -- for those that are under way, and holds up others. Before the floor, too.
    IF _conditions IS NULL THEN
      PERFORM pg_advisory_xact_lock_shared(7703, '@evsrc_event'::regclass::oid::int);
    ELSE
      PERFORM pg_advisory_xact_lock(7703, '@evsrc_event'::regclass::oid::int);
    END IF;
    -- The floor: no position at or below it can still appear because of us. Readers
    -- stop below the lowest floor that is held. It is taken before a position is drawn,
    -- once: the first covers all of a transaction, and the table of locks is small. (A
    -- savepoint that is rolled back takes the lock and the setting with it.)
    IF coalesce(current_setting(_floor, true), '') = '' THEN
      PERFORM pg_advisory_xact_lock_shared(
        '@evsrc_event'::regclass::oid::int, (@evsrc_drawn() & 2147483647)::int);
      PERFORM set_config(_floor, 'held', true);
    END IF;
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
  IF _conditions IS NOT NULL THEN  -- nobody else draws positions until this ends
    _start := CASE WHEN _concurrent THEN @evsrc_drawn()
                   ELSE (SELECT l.head FROM @evsrc_log AS l WHERE l.key = 0) END;
  END IF;
  status := array_fill(0, ARRAY[_jobs]);
  about := array_fill(NULL::int, ARRAY[_jobs]);
  told := array_fill(NULL::text, ARRAY[_jobs]);
  w_version := _shift_v;
  w_first := _shift_v;
  w_last := _shift_v;

  FOR _job IN 1 .. _jobs LOOP
    _several := _w < _writes AND _w_job[_w + 1] = _job;
    IF _several THEN
      _before := _version;
    END IF;
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
      IF _refused = 0 AND _conditions IS NOT NULL THEN
        FOR _change IN SELECT * FROM jsonb_to_record(_conditions -> _w::text) AS c(
            after bigint, items jsonb, rivals int[]) WHERE _conditions ? _w::text LOOP
          told[_job] := (SELECT max(p) FROM unnest(_change.rivals) AS r,
            LATERAL (SELECT _start + _shift_r[_e_write[r]] + r AS p) AS place
           WHERE _shift_v[_e_write[r]] IS NOT NULL AND p > _change.after);
          IF told[_job] IS NULL THEN
            told[_job] := (@evsrc_positions(_change.after, 9223372036854775807, 1, true,
                                            NULL, NULL, _change.items))[1];
          END IF;
          IF told[_job] IS NOT NULL THEN
            _refused := 6;
            about[_job] := _w;
          END IF;
        END LOOP;
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
      FOR _change IN SELECT * FROM json_to_recordset(_also) AS a(
          job int, n int, kind text, name text, after bigint, writer uuid,
          token bigint)
         WHERE a.job = _job AND a.kind IN ('checkpoint', 'fence')
         ORDER BY a.kind, a.name LOOP
        IF _change.kind = 'checkpoint' THEN
          SELECT c.position, c.writer INTO _found FROM @evsrc_checkpoint AS c
           WHERE c.name = _change.name FOR UPDATE;
          IF _found.writer = _change.writer THEN
            _refused := 2;  -- this very append was here before
            EXIT;
          ELSIF _refused = 0 AND coalesce(_found.position, 0) <> _change.after THEN
            _refused := 4;
            about[_job] := _change.n;
            told[_job] := coalesce(_found.position, 0);
          END IF;
        ELSIF _refused = 0 THEN
          -- the lock keeps others from acquiring it until this transaction ends
          SELECT l.token INTO _actual FROM @evsrc_lease AS l
           WHERE l.name = _change.name AND l.owner IS NOT NULL FOR SHARE;
          IF _actual IS DISTINCT FROM _change.token THEN
            _refused := 5;
            about[_job] := _change.n;
            told[_job] := _actual;
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
            job int, kind text, name text, after bigint, writer uuid, row json)
           WHERE a.job = _job LOOP
          CASE _change.kind
          WHEN 'checkpoint' THEN
            -- no ON CONFLICT for one that was expected not to be there
            UPDATE @evsrc_checkpoint AS c
               SET (position, crc, writer, saved_at)
                 = (SELECT r.position, r.crc, _change.writer, clock_timestamp()
                      FROM json_to_record(_change.row) AS r(position bigint, crc bigint))
             WHERE c.name = _change.name;
            IF NOT FOUND THEN
              INSERT INTO @evsrc_checkpoint (name, position, crc, writer)
              SELECT _change.name, r.position, r.crc, _change.writer
                FROM json_to_record(_change.row) AS r(position bigint, crc bigint);
            END IF;
          WHEN 'snapshot' THEN
            INSERT INTO @evsrc_snapshot AS s (name, version, schema, state, crc)
            SELECT _change.name, r.version, r.schema, r.state, r.crc
              FROM json_to_record(_change.row) AS r(
                version bigint, schema bigint, state bytea, crc bigint)
            ON CONFLICT (name) DO UPDATE SET version = excluded.version,
              schema = excluded.schema, state = excluded.state,
              crc = excluded.crc, saved_at = excluded.saved_at;
          WHEN 'dead letter' THEN
            PERFORM @evsrc_put_dead_letter(
              json_populate_record(NULL::@evsrc_dead_letter, _change.row));
          ELSE
            NULL;  -- a fence
          END CASE;
        END LOOP;
      END IF;
    ELSE
      status[_job] := _refused;
      IF _several THEN
        _version := _before;
      ELSIF _job_w < _w THEN
        _version[_s] := _version[_s] - _w_count[_job_w];
      END IF;
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
    at := date_part('epoch', clock_timestamp()) * 1000000;
    INSERT INTO @evsrc_event (position, version, at, crc, seal, event_id,
                              category, stream_id, type, meta, data)
    SELECT p, v, at,
           ((e.crc + v * 1000003) % 4294967291 - 2147483648)::int,
           ((e.seal + p * 1000003 + at % 4294967291) % 4294967291
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
    IF _t_event IS NOT NULL THEN
      INSERT INTO @evsrc_tag (tag, type, position)
      SELECT t.tag, t.type, coalesce(_drawn[_shift_r[_e_write[t.e]] + t.e],
                                     _base + _shift_r[_e_write[t.e]] + t.e)
        FROM unnest(_t_event, _t_type, _t_tag) AS t(e, type, tag)
       WHERE _shift_v[_e_write[t.e]] IS NOT NULL;
    END IF;
    base := _base;
    IF _concurrent THEN
      FOR _i IN 1 .. _writes LOOP
        IF _shift_v[_i] IS NOT NULL THEN
          w_first[_i] := _drawn[w_first[_i]];
          w_last[_i] := _drawn[w_last[_i]];
        END IF;
      END LOOP;
    END IF;
  END IF;
END $$;

-- The most frequent append, one event with serial ordering, in less than half the time.
-- _after: null: there is no condition; what stands against it is what _of_tags, _of_types
-- and _of_items ask for (see evsrc_positions) after that position. Gives version,
-- position and time; null: a conflict, or it was here before (ask evsrc_append).
CREATE FUNCTION @evsrc_append_one(
  _lossy boolean, _wait int, _category text, _stream_id text, _id uuid, _type text,
  _meta bytea, _data bytea, _crc bigint, _seal bigint, _expected bigint,
  _tags uuid[], _after bigint, _of_tags uuid[], _of_types text[], _of_items jsonb
) RETURNS bigint[] LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
  _version  bigint;
  _position bigint;
  _at       bigint;
BEGIN
  IF NOT _lossy AND current_setting('synchronous_commit') = 'off' THEN
    RAISE EXCEPTION 'synchronous_commit is off' USING ERRCODE = 'EV001';
  END IF;
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'the transaction is %', current_setting('transaction_isolation')
      USING ERRCODE = 'EV003';
  END IF;
  -- as a condition, which is sooner done than the query that PERFORM is
  IF (current_setting('lock_timeout') = '0'
      AND set_config('lock_timeout', _wait::text, true) IS NULL)
     OR pg_advisory_xact_lock(7701, '@evsrc_event'::regclass::oid::int) IS NULL THEN
    RETURN NULL;  -- neither ever is
  END IF;
  SELECT e.version INTO _version FROM @evsrc_event AS e
   WHERE e.category = _category AND e.stream_id = _stream_id
     AND e.version >= _expected  -- or it would read all versions of an index page
   ORDER BY e.version DESC LIMIT 1;
  _version := coalesce(_version, 0);
  IF NOT (_expected = _version OR _expected = -1
          OR (_expected = -2 AND _version > 0)) THEN
    RETURN NULL;
  END IF;
  IF _after IS NOT NULL AND @evsrc_positions(_after, 9223372036854775807, 1, false,
                              _of_tags, _of_types, _of_items) <> '{}' THEN
    RETURN NULL;
  END IF;
  UPDATE @evsrc_log AS l SET head = l.head + 1
   WHERE l.key = 0 AND l.ordering = 'serial' RETURNING l.head INTO _position;
  IF _position IS NULL THEN
    RAISE EXCEPTION 'the ordering is not serial' USING ERRCODE = 'EV002';
  END IF;
  _at := date_part('epoch', clock_timestamp()) * 1000000;
  _version := _version + 1;
  INSERT INTO @evsrc_event (position, version, at, crc, seal, event_id,
                            category, stream_id, type, meta, data)
  VALUES (_position, _version, _at,
          ((_crc + _version * 1000003) % 4294967291 - 2147483648)::int,
          ((_seal + _position * 1000003 + _at % 4294967291) % 4294967291
            - 2147483648)::int,
          _id, _category, _stream_id, _type, _meta, _data);
  IF _tags IS NOT NULL THEN
    INSERT INTO @evsrc_tag (tag, type, position)
    SELECT tag, _type, _position FROM unnest(_tags) AS tag;
  END IF;
  RETURN ARRAY[_version, _position, _at];
END $$;

-- One more event in a stream whose version the client knows, because nobody has moved
-- the head since it appended: without a look. Gives the time; null, with nothing written:
-- the head is not _head, or somebody else is appending, or there is something to complain
-- about (ask evsrc_append_one).
CREATE FUNCTION @evsrc_append_next(
  _lossy boolean, _wait int, _category text, _stream_id text, _id uuid, _type text,
  _meta bytea, _data bytea, _crc bigint, _seal bigint, _head bigint, _version bigint
) RETURNS bigint LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
  _at bigint;
BEGIN
  IF (NOT _lossy AND current_setting('synchronous_commit') = 'off')
     OR (current_setting('lock_timeout') = '0'
         AND set_config('lock_timeout', _wait::text, true) IS NULL)
     OR NOT pg_try_advisory_xact_lock(7701, '@evsrc_event'::regclass::oid::int) THEN
    RETURN NULL;
  END IF;
  UPDATE @evsrc_log AS l SET head = l.head + 1
   WHERE l.key = 0 AND l.ordering = 'serial' AND l.head = _head;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  _at := date_part('epoch', clock_timestamp()) * 1000000;
  INSERT INTO @evsrc_event (position, version, at, crc, seal, event_id,
                            category, stream_id, type, meta, data)
  VALUES (_head + 1, _version + 1, _at,
          ((_crc + (_version + 1) * 1000003) % 4294967291 - 2147483648)::int,
          ((_seal + (_head + 1) * 1000003 + _at % 4294967291) % 4294967291
            - 2147483648)::int,
          _id, _category, _stream_id, _type, _meta, _data);
  RETURN _at;
END $$;

-- What the short functions for several events begin with: refuse what would do harm, and
-- wait in line, with a limit. (The other appends have it in their own words: that for one
-- event takes too little time for a call, and the general one may queue first.)
CREATE FUNCTION @evsrc_take_turn(_lossy boolean, _wait int) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  IF NOT _lossy AND current_setting('synchronous_commit') = 'off' THEN
    RAISE EXCEPTION 'synchronous_commit is off' USING ERRCODE = 'EV001';
  END IF;
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'the transaction is %', current_setting('transaction_isolation')
      USING ERRCODE = 'EV003';
  END IF;
  IF current_setting('lock_timeout') = '0' THEN
    PERFORM set_config('lock_timeout', _wait::text, true);
  END IF;
  PERFORM pg_advisory_xact_lock(7701, '@evsrc_event'::regclass::oid::int);
END $$;

-- The most frequent flight, with serial ordering: appends of one event each, no two to
-- the same stream. They are judged and written as sets. base: the position before the
-- first; null: nothing is written, because one of them is a conflict, or was here before
-- (ask evsrc_append, which judges each alone). versions: what each stream has now.
CREATE FUNCTION @evsrc_append_each(
  _lossy boolean, _wait int, _categories text[], _stream_ids text[], _ids uuid[],
  _types text[], _metas bytea[], _data bytea[], _crcs bigint[], _seals bigint[],
  _expected bigint[],
  OUT versions bigint[], OUT base bigint, OUT at bigint
) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
BEGIN
  PERFORM @evsrc_take_turn(_lossy, _wait);
  SELECT array_agg(CASE WHEN x = coalesce(v, 0) OR x = -1 OR (x = -2 AND v > 0)
                        THEN coalesce(v, 0) + 1 END ORDER BY n) INTO versions
    FROM unnest(_categories, _stream_ids, _expected) WITH ORDINALITY AS s(c, i, x, n)
    LEFT JOIN LATERAL (
      SELECT e.version AS v FROM @evsrc_event AS e
       WHERE e.category = s.c AND e.stream_id = s.i AND e.version >= s.x
       ORDER BY e.version DESC LIMIT 1) AS newest ON true;
  IF array_position(versions, NULL) IS NOT NULL THEN
    RETURN;
  END IF;
  UPDATE @evsrc_log AS l SET head = l.head + cardinality(versions)
   WHERE l.key = 0 AND l.ordering = 'serial'
  RETURNING l.head - cardinality(versions) INTO base;
  IF base IS NULL THEN
    RAISE EXCEPTION 'the ordering is not serial' USING ERRCODE = 'EV002';
  END IF;
  at := date_part('epoch', clock_timestamp()) * 1000000;
  INSERT INTO @evsrc_event (position, version, at, crc, seal, event_id,
                            category, stream_id, type, meta, data)
  SELECT base + n, v, at,
         ((crc + v * 1000003) % 4294967291 - 2147483648)::int,
         ((seal + (base + n) * 1000003 + at % 4294967291) % 4294967291
           - 2147483648)::int,
         id, c, i, type, meta, data
    FROM unnest(versions, _categories, _stream_ids, _ids, _types, _metas, _data,
                _crcs, _seals)
           WITH ORDINALITY AS e(v, c, i, id, type, meta, data, crc, seal, n);
END $$;

-- Several events for one stream, with serial ordering. As evsrc_append_one, without tags
-- and conditions. base: the position before the first; null: ask evsrc_append.
CREATE FUNCTION @evsrc_append_stream(
  _lossy boolean, _wait int, _category text, _stream_id text, _ids uuid[],
  _types text[], _metas bytea[], _data bytea[], _crcs bigint[], _seals bigint[],
  _expected bigint,
  OUT version bigint, OUT base bigint, OUT at bigint
) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
  _before bigint;
BEGIN
  PERFORM @evsrc_take_turn(_lossy, _wait);
  SELECT e.version INTO _before FROM @evsrc_event AS e
   WHERE e.category = _category AND e.stream_id = _stream_id
     AND e.version >= _expected
   ORDER BY e.version DESC LIMIT 1;
  _before := coalesce(_before, 0);
  IF NOT (_expected = _before OR _expected = -1
          OR (_expected = -2 AND _before > 0)) THEN
    RETURN;
  END IF;
  UPDATE @evsrc_log AS l SET head = l.head + cardinality(_ids)
   WHERE l.key = 0 AND l.ordering = 'serial'
  RETURNING l.head - cardinality(_ids) INTO base;
  IF base IS NULL THEN
    RAISE EXCEPTION 'the ordering is not serial' USING ERRCODE = 'EV002';
  END IF;
  at := date_part('epoch', clock_timestamp()) * 1000000;
  version := _before + cardinality(_ids);
  INSERT INTO @evsrc_event (position, version, at, crc, seal, event_id,
                            category, stream_id, type, meta, data)
  SELECT base + n, _before + n, at,
         ((e.crc + (_before + n) * 1000003) % 4294967291 - 2147483648)::int,
         ((e.seal + (base + n) * 1000003 + at % 4294967291) % 4294967291
           - 2147483648)::int,
         id, _category, _stream_id, type, meta, e.data
    FROM unnest(_ids, _types, _metas, _data, _crcs, _seals)
           WITH ORDINALITY AS e(id, type, meta, data, crc, seal, n);
END $$;

-- Concurrent ordering: everything up to here is committed and visible, or never will
-- be. The last number drawn is read first, the floors that are held second, the events
-- third. It ends with an event: numbers that were drawn in vain after the last one may
-- be given out again after a crash, and then for events.
CREATE FUNCTION @evsrc_watermark() RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  _drawn bigint := @evsrc_drawn();
  _below bigint;
  _final bigint;
BEGIN
  -- A page that follows has to see what was committed by now, and whose locks are gone.
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'the transaction is %', current_setting('transaction_isolation')
      USING ERRCODE = 'EV003';
  END IF;
  IF pg_is_in_recovery() THEN  -- no locks of appends, numbers ahead of their events
    RAISE read_only_sql_transaction
      USING MESSAGE = 'a standby cannot tell which positions are final';
  END IF;
  SELECT max(d) INTO _below FROM (
    SELECT (_drawn - objid::bigint) & 2147483647 AS d FROM pg_locks
     WHERE locktype = 'advisory' AND objsubid = 2 AND granted
       AND classid = '@evsrc_event'::regclass::oid
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    ) AS floors WHERE d < 1073741824;
  SELECT position INTO _final FROM @evsrc_event
   WHERE position <= _drawn - coalesce(_below, 0) ORDER BY position DESC LIMIT 1;
  RETURN coalesce(_final, 0);
END $$;

-- For people: `SELECT * FROM evsrc_events` in psql.
CREATE FUNCTION @evsrc_text(_data bytea) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
  RETURN convert_from(_data, 'UTF8');
EXCEPTION WHEN character_not_in_repertoire OR untranslatable_character THEN
  RETURN encode(_data, 'hex');
END $$;

-- An event's tags are in its metadata; those that are damaged show none.
CREATE FUNCTION @evsrc_tags(_meta bytea) RETURNS SETOF text
LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
  IF position('"$tags":'::bytea IN _meta) > 0 THEN
    -- they are last; what is before them may hold a \u0000, which jsonb does not
    RETURN QUERY SELECT jsonb_array_elements_text(substring(
      convert_from(_meta, 'UTF8') FROM '^.*"\$tags":(\[.*\])\}$')::jsonb);
  END IF;
EXCEPTION WHEN data_exception THEN
  RETURN;
END $$;

CREATE FUNCTION @evsrc_untagged(_meta bytea) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
  IF position('"$tags":'::bytea IN _meta) > 0 THEN
    RETURN nullif(convert_from(_meta, 'UTF8')::jsonb - '$tags', '{}');
  END IF;
  RETURN @evsrc_text(_meta);
EXCEPTION WHEN data_exception THEN
  RETURN @evsrc_text(_meta);
END $$;

CREATE VIEW @evsrc_events AS
SELECT position, category, stream_id, version, type, @evsrc_text(data) AS data,
       @evsrc_untagged(meta) AS metadata,
       nullif(ARRAY(SELECT @evsrc_tags(meta)), '{}') AS tags,
       'epoch'::timestamptz + at * interval '1 microsecond' AS recorded_at, event_id
  FROM @evsrc_event;

CREATE VIEW @evsrc_streams AS
SELECT category, stream_id, max(version) AS version
  FROM @evsrc_event GROUP BY category, stream_id;

CREATE VIEW @evsrc_checkpoints AS
SELECT name, position, saved_at FROM @evsrc_checkpoint;

CREATE VIEW @evsrc_dead_letters AS
SELECT subscription, position, category, stream_id, type,
       @evsrc_text(data) AS data, error, stacktrace, attempts, status,
       'epoch'::timestamptz + first_failed_at * interval '1 microsecond'
         AS first_failed_at,
       'epoch'::timestamptz + last_failed_at * interval '1 microsecond'
         AS last_failed_at,
       'epoch'::timestamptz + resolved_at * interval '1 microsecond' AS resolved_at,
       resolved_by, event_id
  FROM @evsrc_dead_letter;

CREATE VIEW @evsrc_leases AS
SELECT name, owner, token,
       'epoch'::timestamptz + until * interval '1 microsecond' AS until
  FROM @evsrc_lease;
