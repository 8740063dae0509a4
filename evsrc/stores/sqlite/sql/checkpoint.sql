-- ?1 name
SELECT position, crc FROM evsrc_checkpoint WHERE name = ?
