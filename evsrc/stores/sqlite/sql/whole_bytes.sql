-- 3, if what group_concat puts together is whole; see packed.sql.
SELECT length(CAST(group_concat(bytes, '') AS BLOB)) FROM (SELECT x'610062' AS bytes)
