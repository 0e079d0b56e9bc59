#!/bin/sh
# A cluster behind nginx: fan-out, clients of all instances, churn, and a restart of all instances
# one by one under load. One table at the end.
#
#   loadtest/cluster.sh SERVER_BINARY [LOADTEST_BINARY]
#
# SECONDS_EACH=10 INSTANCES=3 CLIENTS=2000 RATE=1000 DRAIN_WINDOW=8s PORT=18200 BALANCE=least_conn
# CLUSTER_CORES=0 LOAD_CORES=1 SERVER_FLAGS='…'
#
# nginx has the shipped configuration (nginx/local.sh). Redis keeps an AOF, synced every second. All
# of the cluster is on CLUSTER_CORES, the load on LOAD_CORES. What can be run without nginx is run
# so too, for the difference. As root all runs in a network namespace of its own, so that no
# firewall rule makes loopback dearer. A run that failed shows as `-`, and the exit code is 1 then;
# the restarts fail if anything acked is lost, doubled or out of order at any client.
set -eu

server=$1
here=$(dirname "$0")
load=${2:-$here/../target/release/loadtest}
: "${SECONDS_EACH:=10}" "${INSTANCES:=3}" "${CLIENTS:=2000}" "${RATE:=1000}" "${PORT:=18200}"
: "${DRAIN_WINDOW:=8s}" "${CLUSTER_CORES:=0}" "${LOAD_CORES:=1}"
: "${SERVER_FLAGS:=--shards 1 --pin-cores off --rate-limit 0 --rate-limit-bytes 0 --rate-limit-address 0}"
export BALANCE="${BALANCE:-least_conn}"
PATH=$PATH:/usr/sbin

. "$here/common.sh"
own_namespace "$0" "$@"
begin
chmod 755 "$folder" # nginx has workers of another user

redis=127.0.0.1:$PORT
start_redis "$CLUSTER_CORES" "$PORT"

start() { # NUMBER: the instance of that number; its process is in pid_NUMBER
    # shellcheck disable=SC2086
    taskset -c "$CLUSTER_CORES" "$server" --port $((PORT + $1)) --data-dir "$folder/data$1" \
        --instance-id "server-$1" --redis-url "$redis" --drain-window "$DRAIN_WINDOW" \
        $SERVER_FLAGS >>"$folder/server$1.log" 2>&1 &
    eval "pid_$1=$!"
    pids="$! $pids"
    await "server$1" "$server" health --port $((PORT + $1))
}

all=
for i in $(seq "$INSTANCES"); do
    start "$i"
    all="$all 127.0.0.1:$((PORT + i))"
done
# shellcheck disable=SC2086
to=$(joined $all)

front=127.0.0.1:$((PORT + INSTANCES + 1))
# shellcheck disable=SC2086
"$here/../nginx/local.sh" "$folder/nginx" "${front#*:}" $all
taskset -c "$CLUSTER_CORES" nginx -c "$folder/nginx/nginx.conf" -g 'daemon off;' \
    >"$folder/nginx.log" 2>&1 &
pids="$! $pids"
await nginx "$server" health --port "${front#*:}"

# Those of clients: in networks of their own for ip_hash to tell them by.
sources=$(seq -s , -f '127.0.%g.1' 1 64)

failed=0
run() { # FIGURES ARGUMENTS…: one line of figures, or `-`
    figures=$1
    shift
    if ! taskset -c "$LOAD_CORES" "$load" "$@" --source-ips "$sources" --seconds "$SECONDS_EACH" \
        --figures "$figures" >"$folder/out" 2>"$folder/err"; then
        failed=1
        echo "failed: $*" >&2
        tail -n 3 "$folder/err" "$folder/out" >&2
        echo - >"$folder/out"
    fi
}

row() { # NAME FORMAT: the figures of the last run by awk's printf
    awk -F '\t' -v name="$1" -v format="$2" '
        NF < 2 { value = "-" }
        NF > 1 { value = sprintf(format, $1, $2, $3, $4, $5, $6, $7, $8, $9) }
        END { printf "| %s | %s |\n", name, value }' "$folder/out" | tee -a "$folder/table" >&2
}

rolling() { # The ledger runs while all instances restart, one after the other.
    figures=acked,lost,doubled,out_of_order,came_back,busiest_second,away_ms_p50,away_ms_p99,away_ms_max
    rm -f "$folder/until"
    taskset -c "$LOAD_CORES" "$load" ledger --to "$front" --clients "$CLIENTS" \
        --rooms $((CLIENTS / 10)) --rate "$RATE" --connect-rate 1000 --source-ips "$sources" \
        --until "$folder/until" --figures "$figures" >"$folder/out" 2>"$folder/err" &
    ledger=$!
    pids="$ledger $pids"
    # All are there once it says so.
    for _ in $(seq 300); do
        if grep -q "^$CLIENTS ready" "$folder/err"; then break; fi
        sleep 0.2
    done
    sleep "$SECONDS_EACH"
    for i in $(seq "$INSTANCES"); do
        eval "pid=\$pid_$i"
        # shellcheck disable=SC2154
        kill "$pid"
        wait "$pid" || { failed=1; echo "server-$i did not drain: $?" >&2; }
        forget "$pid"
        start "$i"
    done
    sleep "$SECONDS_EACH"
    touch "$folder/until"
    if ! wait "$ledger"; then
        failed=1
        tail -n 3 "$folder/err" "$folder/out" >&2
    fi
    forget "$ledger"
}

for way in "$to" "$front"; do
    case $way in
    "$front") how='through nginx' where=', on all instances' kind=local ;;
    *) how='straight' where=', on one instance' kind=remote ;;
    esac
    of_all=${kind}_ms_p50,${kind}_ms_p99,deliveries_per_second
    run "$of_all" cross --to "$way" --members 200 --rate 1000
    row "1,000/s to 200 members on all instances, $how: P50 / P99 ms, deliveries/s" '%s / %s, %.0f'
    one=${way%%,*}
    run latency_ms_p50,latency_ms_p99,deliveries_per_second \
        fanout --addr "$one" --members 1000 --publishers 10 --window 2
    row "10 publishers, 2 in flight each, to 1,000 members$where, $how: P50 / P99 ms, deliveries/s" \
        '%s / %s, %.0f'
    run connects_per_second,round_ms_p50,round_ms_p99 churn --addr "$one" --concurrency 64
    row "connect, join, publish, close, $how: rounds/s, P50 / P99 ms" '%.0f, %s / %s'
done
rolling
row "restart of all $INSTANCES, one by one, with $CLIENTS clients and $RATE messages/s" \
    'acked %s: lost %s, doubled %s, out of order %s; came back %s, at most %s in a second; '\
'away P50 / P99 / longest %s / %s / %s ms'

echo '| behind nginx | |'
echo '|---|---|'
cat "$folder/table"
exit $failed
