-- The triggers of others on the tables that an append writes.
SELECT count(*) FROM sqlite_master
 WHERE type = 'trigger' AND tbl_name IN ('evsrc_log', 'evsrc_stream', 'evsrc_event')
   AND name NOT LIKE 'evsrc@_%' ESCAPE '@'
