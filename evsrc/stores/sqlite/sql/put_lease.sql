-- ?1 name, ?2 owner or null, ?3 token, ?4 until, ?5 checksum
INSERT INTO evsrc_lease (name, owner, token, until, crc) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, token = excluded.token,
  until = excluded.until, crc = excluded.crc
