-- Every category and type name there is.
SELECT key, name, crc FROM evsrc_name
