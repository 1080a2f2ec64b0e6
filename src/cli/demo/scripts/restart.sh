# service_restart: counts up the generation of a service, in one rename, as a service manager would.
ledger begin restart
service=$(metadata service_name)
state=$DEMO/services/$service
progress 20 "stopping $service"
sleep 0.2
if ! already; then
    generation=$(cat "$state" 2>/dev/null || echo 0)
    progress 70 "starting $service"
    echo $((generation + 1)) >"$state.$ACTIOND_ID.$ACTIOND_ATTEMPT"
    mv "$state.$ACTIOND_ID.$ACTIOND_ATTEMPT" "$state"
    ledger end restart
fi
echo "$service runs, generation $(cat "$state")"
result "{\"service_name\": \"$service\", \"generation\": $(cat "$state")}"
message "restarted $service"
