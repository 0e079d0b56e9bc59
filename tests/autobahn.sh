#!/usr/bin/env bash
# The Autobahn test suite against `ringcast serve --echo --deflate`.
#
#   tests/autobahn.sh HARNESS SERVER
#
# HARNESS is the script that runs wstest against a URL, SERVER the binary. Once without a cap on
# fragments, where every case must pass; once as it is by default, where cases beyond the cap must
# be closed with 1008 (tests/autobahn.py judges); and once without a cap through nginx with the
# shipped configuration, where every case must end as it does without nginx. Compression (12.* and
# 13.*) is required in all of them.
set -euo pipefail
cd "$(dirname "$0")/.."
harness=$1 server=$2
fragments_max=4096 # the default of --max-fragments
work=$(mktemp -d)
chmod 755 "$work" # nginx has workers of another user
pids=
stop() {
  for pid in $pids; do kill "$pid" 2>/dev/null && wait "$pid" || true; done
  pids=
}
trap 'stop; rm -rf "$work"' EXIT

port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# await NAME PORT: until /health is answered there by the newest process.
await() {
  local tries=50
  until "$server" health --port "$2" >/dev/null 2>&1; do
    tries=$((tries - 1))
    if [ "$tries" = 0 ] || ! kill -0 "${pids##* }" 2>/dev/null; then
      echo "autobahn: $1 did not start:"
      cat "$work/$1.log"
      return 1
    fi
    sleep 0.1
  done
}

# run NAME FRAGMENTS_MAX [FLAG...]; through nginx if NAME says so.
run() {
  local name=$1 cap=$2 port front
  shift 2
  port=$(port)
  "$server" serve --port "$port" --echo --deflate --store memory --data-dir "$work/$name" "$@" \
    >"$work/$name.log" 2>&1 &
  pids="$pids $!"
  await "$name" "$port" || return 1
  if [ "$name" = nginx ]; then
    front=$(port)
    nginx/local.sh "$work/front" "$front" "127.0.0.1:$port"
    nginx -c "$work/front/nginx.conf" -g 'daemon off;' >"$work/front.log" 2>&1 &
    pids="$pids $!"
    await front "$front" || return 1
    port=$front
  fi
  # The harness's own verdict knows no cap: only the report counts, and 2 (nothing proven).
  local code=0
  "$harness" "ws://127.0.0.1:$port/echo" "ringcast-$name" --require-deflate --out "$work/$name.report" \
    || code=$?
  stop
  [ "$code" -le 1 ] || return "$code"
  # Without a cap the harness must agree, for it knows too whether all cases ran.
  [ "$cap" != 0 ] || [ "$code" = 0 ] || { cat "$work/$name.log"; return 1; }
  python3 tests/autobahn.py "$work/$name.report" "$cap" "$work/no-cap.report"
}

failed=0
run no-cap 0 --max-fragments 0 || failed=1
run default "$fragments_max" || failed=1
PATH=$PATH:/usr/sbin
if command -v nginx >/dev/null; then
  run nginx 0 --max-fragments 0 || failed=1
else
  echo "autobahn: nginx is missing, so nothing is shown of it"
fi
exit "$failed"
