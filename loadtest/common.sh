# What the scripts beside this have in common; they read it in. No program by itself.

# own_namespace SCRIPT ARGUMENTS…: as root, the script anew in a network namespace of its own, so
# that no firewall rule makes loopback dearer.
own_namespace() {
    if [ "$(id -u)" = 0 ] && [ -z "${LOADTEST_NAMESPACE:-}" ] && unshare -n true 2>/dev/null; then
        export LOADTEST_NAMESPACE=1
        exec unshare -n sh -c 'ip link set lo up && exec sh "$0" "$@"' "$@"
    fi
}

# Makes $folder, and ends those in $pids with the script, the first one first.
begin() {
    folder=$(mktemp -d)
    pids=
    trap 'stop_all; rm -rf "$folder"' EXIT
    trap 'exit 130' INT TERM
}

stop_all() {
    for pid in $pids; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    pids=
}

# forget PID: it has ended, and its number may be another's.
forget() {
    # shellcheck disable=SC2086
    pids=$(printf '%s\n' $pids | grep -vx "$1" || true)
}

# await NAME COMMAND…: until it succeeds; NAME.log in $folder says why it does not.
await() {
    name=$1
    shift
    for _ in $(seq 100); do
        if "$@" >/dev/null 2>&1; then
            return
        fi
        sleep 0.1
    done
    echo "$name does not answer:" >&2
    tail -n 20 "$folder/$name.log" >&2
    exit 2
}

# start_redis CORES PORT: one with an AOF, synced every second; its process is in $redis_pid.
start_redis() {
    taskset -c "$1" redis-server --port "$2" --dir "$folder" --save '' \
        --appendonly yes --appendfsync everysec >"$folder/redis.log" 2>&1 &
    redis_pid=$!
    pids="$redis_pid $pids"
    await redis redis-cli -p "$2" ping
}

# The list of what follows, with commas.
joined() {
    echo "$*" | tr ' ' ','
}
