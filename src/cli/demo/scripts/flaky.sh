# clear_caches: its cache server is busy twice; exit 75 asks for another try.
ledger begin caches
count=$(cat "$DEMO/tries.$ACTIOND_ID" 2>/dev/null || echo 0)
count=$((count + 1))
echo "$count" >"$DEMO/tries.$ACTIOND_ID.new"
mv "$DEMO/tries.$ACTIOND_ID.new" "$DEMO/tries.$ACTIOND_ID"
if test "$count" -le 2; then
    echo "try $count: the cache server is busy" >&2
    message "the cache server is busy"
    exit 75
fi
already || ledger end caches
result "{\"cleared\": [\"page\", \"view\"]}"
message "cleared at try $count"
