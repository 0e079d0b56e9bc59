#!/bin/sh
# One row of the peers' table: each column run against a server binary, the medians of RUNS runs.
#
#   loadtest/peers.sh SERVER_BINARY [LOADTEST_BINARY]
#
# RUNS=3 SECONDS_EACH=5 IDLE=10000 PORT=18080 SERVER_CORE=0 LOAD_CORE=1 SERVER_FLAGS='…'
#
# The server gets core 0 and the load core 1. As root all runs in a network namespace of its own, so
# that no firewall rule makes loopback dearer. A column that failed shows as `-`, and the exit code
# is 1 then.
set -eu

server=$1
load=${2:-$(dirname "$0")/../target/release/loadtest}
: "${RUNS:=3}" "${SECONDS_EACH:=5}" "${IDLE:=10000}" "${PORT:=18080}"
: "${SERVER_CORE:=0}" "${LOAD_CORE:=1}"
: "${SERVER_FLAGS:=--store memory --shards 1 --rate-limit 0 --rate-limit-bytes 0 --rate-limit-address 0}"

. "$(dirname "$0")/common.sh"
own_namespace "$0" "$@"

folder=$(mktemp -d)
pid=
stop_server() {
    if [ -n "$pid" ]; then
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
        pid=
    fi
}
trap 'stop_server; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM

# A fresh server for each run: no figure stands on another's memory.
start_server() {
    # shellcheck disable=SC2086
    taskset -c "$SERVER_CORE" "$server" --port "$PORT" --data-dir "$folder/data" $SERVER_FLAGS \
        >"$folder/server.log" 2>&1 &
    pid=$!
    for _ in $(seq 100); do
        if "$load" idle --addr "127.0.0.1:$PORT" --connections 1 --seconds 0.1 \
            >/dev/null 2>&1; then
            return
        fi
        sleep 0.1
    done
    echo "the server does not answer:" >&2
    cat "$folder/server.log" >&2
    exit 2
}

# The medians of each word over the lines on stdin, separated by slashes.
medians() {
    awk -v CONVFMT=%.10g '
        { columns = NF > columns ? NF : columns; for (i = 1; i <= NF; i++) if ($i != "-") cell[i, ++n[i]] = $i }
        END {
            for (i = 1; i <= columns; i++) {
                for (a = 1; a <= n[i]; a++)
                    for (b = a + 1; b <= n[i]; b++)
                        if (cell[i, b] + 0 < cell[i, a] + 0) { t = cell[i, a]; cell[i, a] = cell[i, b]; cell[i, b] = t }
                m = int((n[i] + 1) / 2)
                middle = n[i] == 0 ? "-" : n[i] % 2 ? cell[i, m] : (cell[i, m] + cell[i, m + 1]) / 2
                printf "%s%s", (i > 1 ? " / " : ""), middle
            }
            if (columns == 0) printf "-"
        }'
}

names= row= failed=0
column() { # NAME FIGURES ARGUMENTS…
    name=$1 figures=$2
    shift 2
    : >"$folder/lines"
    for _ in $(seq "$RUNS"); do
        start_server
        if ! "$load" "$@" --addr "127.0.0.1:$PORT" --pid "$pid" --pin "$LOAD_CORE" \
            --seconds "$SECONDS_EACH" --figures "$figures,own_busy" \
            >"$folder/out" 2>"$folder/err"; then
            failed=1
            echo "$name: failed" >&2
            tail -n 3 "$folder/err" "$folder/out" >&2
        fi
        # The last figure is for the eye only.
        sed 's/\t[^\t]*$//' "$folder/out" >>"$folder/lines"
        echo "$name: $(cat "$folder/out")" >&2
        stop_server
    done
    cell=$(medians <"$folder/lines")
    names="$names $name |"
    row="$row $cell |"
}

rate=deliveries_per_server_cpu_second
column '1 to 1,000, 1 in flight' $rate fanout --members 1000 --window 1
column '16 in flight' $rate fanout --members 1000 --window 16
column '100 rooms of 10, 100 publishers, 4' $rate \
    fanout --rooms 100 --members 10 --publishers 100 --window 4
column '100 members, 10 publishers, 2' $rate fanout --members 100 --publishers 10 --window 2
column '8' $rate fanout --members 100 --publishers 10 --window 8
column '100/s to 1,000: P50/P99 ms' latency_ms_p50,latency_ms_p99 fanout --members 1000 --rate 100
column '1,000/s to 1,000: P50/P99 ms' latency_ms_p50,latency_ms_p99 fanout --members 1000 --rate 1000
column 'idle bytes a connection' bytes_per_connection idle --connections "$IDLE"
column 'connects per CPU-s' connects_per_server_cpu_second churn

echo "|$names"
echo "|$row"
exit $failed
