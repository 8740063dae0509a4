-- ?1 name
SELECT owner, token, until, crc FROM evsrc_lease WHERE name = ?
