-- ?1 position, ?2 stream, ?3 version, ?4 category, ?5 type, ?6 at, ?7 envelope,
-- ?8 meta, ?9 data, ?10 checksum of the head, ?11 content and ?12 checksum of the stream
INSERT OR ABORT INTO evsrc_append_one VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
