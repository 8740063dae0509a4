-- ?1 tag's key; the types of its events, one step of the index for each
SELECT DISTINCT type FROM evsrc_tag WHERE tag = ?
