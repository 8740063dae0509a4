-- ?1 subscription, ?2 event id
DELETE FROM evsrc_dead_letter WHERE subscription = ? AND event_id = ?
