# Common to the demo's handler programs. The action is one JSON object on stdin; reports go to descriptor 3.
set -eu
umask 022
action=$(cat)

# A value of the action's metadata: a plain string.
metadata() {
    printf '%s\n' "$action" | sed -n "s/.*\"$1\" *: *\"\([0-9A-Za-z._/-]*\)\".*/\1/p"
}

# Each line is one write to a file opened for appending, so lines of two programs never mix.
ledger() {
    printf '%s %s %s %s\n' "$ACTIOND_ID" "$ACTIOND_ATTEMPT" "$1" "$2" >>"$DEMO/ledger"
}

progress() {
    printf '{"progress": %s, "message": "%s"}\n' "$1" "$2" >&3
}

message() {
    printf '{"message": "%s"}\n' "$1" >&3
}

result() {
    printf '{"result": %s}\n' "$1" >&3
}

# Whether an earlier attempt of this action had its effect: the action's id makes the effect idempotent.
already() {
    grep -q "^$ACTIOND_ID [0-9]* end " "$DEMO/ledger"
}
