-- ?1 and ?2 the start of the name
SELECT name, owner, token, until, crc FROM evsrc_lease
 WHERE substr(name, 1, length(?)) = ? ORDER BY name
