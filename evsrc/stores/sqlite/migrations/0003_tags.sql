-- Where events with tags are. tag: a 63-bit hash of the tag (see checks.py); two tags
-- may share one, so whoever looks here looks at the tags of the event as well, which
-- are in its metadata. Event types come before positions: a tag that very many events
-- have is then as quickly searched for a type as one that few have.
CREATE TABLE evsrc_tag (
  tag      INTEGER NOT NULL,
  type     INTEGER NOT NULL,
  position INTEGER NOT NULL,
  PRIMARY KEY (tag, type, position)
) WITHOUT ROWID;

DROP VIEW events;
CREATE VIEW events AS
SELECT e.position,
       s.category,
       s.id AS stream_id,
       e.version,
       t.name AS type,
       CAST(e.data AS TEXT) AS data,
       CASE WHEN json_valid(CAST(e.meta AS TEXT))
            THEN nullif(json_remove(CAST(e.meta AS TEXT), '$."$tags"'), '{}')
            ELSE CAST(e.meta AS TEXT) END AS metadata,
       CASE WHEN json_valid(CAST(e.meta AS TEXT))
            THEN json_extract(CAST(e.meta AS TEXT), '$."$tags"') END AS tags,
       strftime('%Y-%m-%dT%H:%M:%S', e.at / 1000000, 'unixepoch')
         || printf('.%06dZ', e.at % 1000000) AS recorded_at,
       lower(substr(hex(e.envelope), 1, 8) || '-' || substr(hex(e.envelope), 9, 4)
         || '-' || substr(hex(e.envelope), 13, 4)
         || '-' || substr(hex(e.envelope), 17, 4)
         || '-' || substr(hex(e.envelope), 21, 12)) AS event_id
  FROM evsrc_event AS e
  JOIN evsrc_stream AS s ON s.key = e.stream
  JOIN evsrc_name AS t ON t.key = e.type;
