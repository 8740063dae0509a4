-- One event more in a stream, if the log and the stream are where they were left.
CREATE TEMP TRIGGER evsrc_append_one INSTEAD OF INSERT ON evsrc_append_one
BEGIN
  UPDATE evsrc_log SET head = new.position, crc = new.head_crc
   WHERE key = 0 AND head = new.position - 1;
  SELECT RAISE(ABORT, 'elsewhere') WHERE changes() = 0;
  INSERT INTO evsrc_event VALUES (new.position, new.stream, new.version, new.category,
    new.type, new.at, new.envelope, x'', new.meta, new.data);
  UPDATE evsrc_stream SET version = new.version, content = new.content,
    crc = new.stream_crc WHERE key = new.stream AND version = new.version - 1;
  SELECT RAISE(ABORT, 'elsewhere') WHERE changes() = 0;
END
