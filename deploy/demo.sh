#!/usr/bin/env bash
# A tour in under a minute: builds Breakwater, starts a Redis behind it on free ports, and lets
# redis-cli show what an application would see. Leaves nothing behind: `make demo`.
#
# DEMO_BINARY=/path/to/breakwater takes that binary instead of building one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

binary=${DEMO_BINARY:-}
# The proxy reads BREAKWATER_* as flags; the tour wants the defaults and nothing of this shell's.
unset "${!BREAKWATER_@}"

# --- the stage ---------------------------------------------------------------------------------

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
  bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'
else
  bold='' dim='' plain=''
fi

stage=$(mktemp -d)
# The path of a unix socket is short by law (about 100 bytes); some TMPDIRs are not.
if [ "${#stage}" -gt 60 ]; then
  rmdir "$stage"
  stage=$(mktemp -d /tmp/breakwater.XXXXXX)
fi
socket=$stage/redis.sock
pids=()

cleanup() {
  local status=$? pid
  trap - EXIT INT TERM
  for pid in ${pids[@]+"${pids[@]}"}; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  if [ "$status" -ne 0 ] && [ -s "$stage/breakwater.log" ]; then
    printf '\nThe demo stopped early. The last lines of the log:\n' >&2
    tail -n 20 "$stage/breakwater.log" >&2
  fi
  rm -rf "$stage"
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() {
  printf 'demo: %s\n' "$*" >&2
  exit 1
}

# A port that nobody answers on, below the range from which the kernel takes its own.
free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 10000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  printf '%s' "$port"
}

# Waits until a command succeeds: until what, then the command. Ten seconds are plenty for a start.
wait_until() {
  local what=$1 deadline=$((SECONDS + 10))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || fail "waited 10 s in vain until $what"
    sleep 0.05
  done
}

# A fresh machine may have no curl; bash speaks TCP by itself.
http_get() {
  exec 3<>"/dev/tcp/127.0.0.1/$admin"
  printf 'GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n' "$1" >&3
  sed '1,/^\r*$/d' <&3
  exec 3>&-
}

title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
indent() { sed -e '/^[[:space:]]*$/d' -e 's/^/    /'; }

# Shows a command as one would type it, runs it, and shows what it said.
show() {
  printf '  %s$ %s%s\n' "$dim" "$*" "$plain"
  "$@" 2>&1 </dev/null | indent
}

through() { redis-cli -p "$port" "$@"; }

# --- the cast ----------------------------------------------------------------------------------

for needed in redis-server redis-cli redis-benchmark; do
  command -v "$needed" >/dev/null || fail "$needed is missing: bash deploy/install-redis.sh"
done
if [ -z "$binary" ]; then
  printf 'Building Breakwater (the first time takes a few minutes) ...\n'
  "${CARGO:-cargo}" build --release --locked --quiet
  binary=${CARGO_TARGET_DIR:-target}/release/breakwater
fi
[ -x "$binary" ] || fail "no binary at $binary"

redis=$(free_port) port=$(free_port) admin=$(free_port)
redis-server --port "$redis" --bind 127.0.0.1 --save '' --appendonly no --dir "$stage" \
  >"$stage/redis.log" 2>&1 &
pids+=($!)
wait_until "redis-server answers" redis-cli -p "$redis" PING

"$binary" run --listen "127.0.0.1:$port" --listen "unix:$socket" \
  --upstream "redis://127.0.0.1:$redis" --admin "127.0.0.1:$admin" \
  >"$stage/breakwater.log" 2>&1 &
proxy=$!
pids+=("$proxy")
wait_until "Breakwater answers" through PING

# --- the tour ----------------------------------------------------------------------------------

title "redis-cli :$port  ->  Breakwater  ->  redis-server :$redis"

title "1. It looks like one Redis on localhost."
show redis-cli -p "$port" SET greeting ahoy
show redis-cli -p "$port" GET greeting

title "2. A pipeline of 1,000 commands: every reply comes back, in order."
printf "  %s\$ printf 'INCR visits\\\\r\\\\n%%.0s' {1..1000} | redis-cli -p %s --pipe%s\n" "$dim" "$port" "$plain"
printf 'INCR visits\r\n%.0s' {1..1000} | through --pipe --pipe-timeout 5 2>&1 | tail -n 1 | indent
show redis-cli -p "$port" GET visits

title "3. RESP3 beside RESP2: the same hash, as a map for those who asked for it."
through HSET user:1 name Ada language Rust >/dev/null
show redis-cli -p "$port" --no-raw HGETALL user:1
show redis-cli -p "$port" -3 --no-raw HGETALL user:1

title "4. The same over a unix socket, for neighbours in one pod."
show redis-cli -s "$socket" GET greeting

title "5. Fifty clients, a handful of connections to Redis: theirs are shared and pipelined."
redis-benchmark -p "$port" -c 50 -n 100000000 -t get -q >/dev/null 2>&1 </dev/null &
crowd=$!
pids+=("$crowd")
fifty_clients() { [ "$(through CLIENT LIST | grep -c 'id=')" -ge 50 ]; }
wait_until "fifty clients are connected" fifty_clients
printf '    clients of Breakwater:  %s\n' "$(through CLIENT LIST | grep -c 'id=')"
printf '    connections to Redis:   %s  (this question included)\n' \
  "$(redis-cli -p "$redis" INFO clients | tr -d '\r' | awk -F: '$1 == "connected_clients" { print $2 }')"
kill "$crowd"
wait "$crowd" 2>/dev/null || true

title "6. What it cannot serve it refuses, and says why; never a wrong answer."
show redis-cli -p "$port" MULTI
show redis-cli -p "$port" GTE greeting

title "7. Metrics and readiness over HTTP."
printf '  %s$ curl http://127.0.0.1:%s/readyz%s\n' "$dim" "$admin" "$plain"
http_get /readyz | indent
printf '\n  %s$ curl http://127.0.0.1:%s/metrics%s   (four lines of it)\n' "$dim" "$admin" "$plain"
http_get /metrics | awk '/^breakwater_commands_total.command="(get|incr|multi|set)"/ && n++ < 4' | indent

title "8. SIGTERM drains: no new clients, what is in flight finishes, then the process ends."
kill -TERM "$proxy"
status=0
wait "$proxy" || status=$?
printf '    exit status %s\n' "$status"
[ "$status" -eq 0 ] || fail "a drained Breakwater exits with 0"

title "Point your own application at it:"
cat <<EOF
    $binary run --listen 127.0.0.1:6380 --upstream redis://YOUR-REDIS:6379
    # and in the application: redis://127.0.0.1:6380 where redis://YOUR-REDIS:6379 was
EOF
