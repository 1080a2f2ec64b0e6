# database_create: fails for good.
ledger begin database
progress 10 "connecting"
echo "connection to server on socket \"/nonexistent/.s.PGSQL.5432\" failed: No such file or directory" >&2
message "the database server is not there"
exit 1
