-- ?1 name; a leading + keeps SQLite from using the index
SELECT 1 FROM evsrc_lease WHERE +name = ?
