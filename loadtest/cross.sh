#!/bin/sh
# ringcast beside a bare relay: several instances of each over one Redis, in turns, in one go.
#
#   loadtest/cross.sh SERVER_BINARY [LOADTEST_BINARY]
#
# TURNS=3 SECONDS_EACH=10 INSTANCES=3 PORT=18100 SERVER_CORES=0 REDIS_CORES=0 LOAD_CORES=1
# SERVER_FLAGS='…' RELAY_FLAGS='' CROSS_FLAGS='' SHAPES='wide tens' TENS_RATE=10000 FIND_RATE=0
#
# Two shapes: 1,000/s to 200 members, and 10,000/s to rooms of ten. Redis keeps an AOF, synced every
# second. All instances of both kinds are on the same cores, and whose turn it is not is idle. As
# root all runs in a network namespace of its own, so that no firewall rule makes loopback dearer.
# RELAY_FLAGS=--stored compares with a relay that has Redis store what it relays, which is the least
# that a server that stores must ask of it; CROSS_FLAGS=--members-publish has members publish.
# FIND_RATE=1 also searches the highest rate of each that holds P99 under 10 ms. A run that failed
# shows as `-`, and the exit code is 1 then.
set -eu

server=$1
load=${2:-$(dirname "$0")/../target/release/loadtest}
: "${TURNS:=3}" "${SECONDS_EACH:=10}" "${INSTANCES:=3}" "${PORT:=18100}" "${FIND_RATE:=0}"
: "${RELAY_FLAGS:=}" "${CROSS_FLAGS:=}" "${SHAPES:=wide tens}" "${TENS_RATE:=10000}"
: "${SERVER_CORES:=0}" "${REDIS_CORES:=0}" "${LOAD_CORES:=1}"
: "${SERVER_FLAGS:=--shards 1 --pin-cores off --rate-limit 0 --rate-limit-bytes 0 --rate-limit-address 0}"

. "$(dirname "$0")/common.sh"
own_namespace "$0" "$@"
begin

redis=127.0.0.1:$PORT
start_redis "$REDIS_CORES" "$PORT"

server_to= server_pids= relay_to= relay_pids=
for i in $(seq "$INSTANCES"); do
    port=$((PORT + i))
    # shellcheck disable=SC2086
    taskset -c "$SERVER_CORES" "$server" --port "$port" --data-dir "$folder/data$i" \
        --instance-id "instance-$i" --redis-url "$redis" $SERVER_FLAGS \
        >"$folder/server$i.log" 2>&1 &
    server_pids="$server_pids $!"
    server_to="$server_to 127.0.0.1:$port"
    pids="$! $pids"
    await "server$i" "$load" idle --addr "127.0.0.1:$port" --connections 1 --rooms 1 --seconds 0.1
    port=$((PORT + INSTANCES + i))
    # shellcheck disable=SC2086
    taskset -c "$SERVER_CORES" "$load" relay --redis "$redis" --port "$port" $RELAY_FLAGS \
        >"$folder/relay$i.log" 2>&1 &
    relay_pids="$relay_pids $!"
    relay_to="$relay_to 127.0.0.1:$port"
    pids="$! $pids"
    await "relay$i" grep -q listening "$folder/relay$i.log"
done

failed=0
figures=remote_ms_p50,remote_ms_p99,local_ms_p99,ack_ms_p99,server_busy,redis_busy,own_busy,own_wait,behind_schedule
run() { # KIND ARGUMENTS…: one line of figures to KIND's file
    kind=$1
    shift
    eval "to=\$${kind}_to of=\$${kind}_pids"
    # shellcheck disable=SC2154,SC2086
    if ! taskset -c "$LOAD_CORES" "$load" cross --to "$(joined $to)" --pid "$(joined $of)" \
        --redis "$redis" --redis-pid "$redis_pid" --seconds "$SECONDS_EACH" "$@" \
        >"$folder/out" 2>"$folder/err"; then
        failed=1
        echo "$kind: failed" >&2
        tail -n 3 "$folder/err" "$folder/out" >&2
    fi
    cat "$folder/out" >>"$folder/$kind"
    echo "$kind: $(cat "$folder/out")" >&2
}

# Medians of the two kinds' P50 and P99, and of the ratios of each turn.
row() { # NAME
    paste "$folder/server" "$folder/relay" | awk -v name="$1" '
        function median(of, n,    a, b, t) {
            if (n == 0) return "-"
            for (a = 1; a <= n; a++)
                for (b = a + 1; b <= n; b++)
                    if (of[b] < of[a]) { t = of[a]; of[a] = of[b]; of[b] = t }
            return n % 2 ? of[(n + 1) / 2] : (of[n / 2] + of[n / 2 + 1]) / 2
        }
        {
            half = NF / 2
            if ($1 == "-" || $(half + 1) == "-" || half < 2) next
            n++
            p50[n] = $1; p99[n] = $2; bare50[n] = $(half + 1); bare99[n] = $(half + 2)
            ratio50[n] = $1 / $(half + 1); ratio99[n] = $2 / $(half + 2)
        }
        END {
            printf "| %s | %s / %s | %s / %s | %.2f | %.2f |\n", name, median(p50, n), median(p99, n),
                median(bare50, n), median(bare99, n), median(ratio50, n), median(ratio99, n)
        }'
}

shape() { # NAME ARGUMENTS…
    name=$1
    shift
    : >"$folder/server"
    : >"$folder/relay"
    for turn in $(seq "$TURNS"); do
        # Neither always comes first.
        if [ $((turn % 2)) = 1 ]; then order='server relay'; else order='relay server'; fi
        for kind in $order; do
            run "$kind" --figures "$figures" "$@"
        done
    done
    row "$name" >>"$folder/table"
}

echo "figures: $figures" >&2
wide="--members 200 --rate 1000 $CROSS_FLAGS"
tens="--rooms 100 --members 10 --rate $TENS_RATE $CROSS_FLAGS"
for of in $SHAPES; do
    # shellcheck disable=SC2086
    case $of in
    wide) shape '1,000/s to 200 members' $wide ;;
    tens) shape "$TENS_RATE/s to rooms of ten" $tens ;;
    *) echo "SHAPES: wide and tens, not $of" >&2; exit 2 ;;
    esac
done
if [ "$FIND_RATE" = 1 ]; then
    for arguments in "$wide" "$tens"; do
        for kind in server relay; do
            # shellcheck disable=SC2086
            run "$kind" $arguments --find-rate --figures highest_rate
            echo "highest rate under 10 ms, $kind, $arguments: $(cat "$folder/out")" \
                >>"$folder/rates"
        done
    done
fi

echo '| shape | ringcast P50 / P99 ms | relay P50 / P99 ms | ratio P50 | ratio P99 |'
echo '|---|---|---|---|---|'
cat "$folder/table"
[ ! -f "$folder/rates" ] || cat "$folder/rates"
exit $failed
