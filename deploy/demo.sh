#!/usr/bin/env bash
# A tour in half a minute: builds Breakwater, starts a Redis Cluster behind it on free ports, lets redis-cli show what an
# application would see, then moves slots and kills a primary under load. Leaves nothing behind: `make demo`.
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

# Waits until a command succeeds: until what, then the command.
wait_until() {
  local what=$1 deadline=$((SECONDS + 30))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || fail "waited 30 s in vain until $what"
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

for needed in redis-server redis-cli; do
  command -v "$needed" >/dev/null || fail "$needed is missing: bash deploy/install-redis.sh"
done
if [ -z "$binary" ]; then
  printf 'Building Breakwater (the first time takes a few minutes) ...\n'
  "${CARGO:-cargo}" build --release --locked --quiet
  binary=${CARGO_TARGET_DIR:-target}/release/breakwater
fi
[ -x "$binary" ] || fail "no binary at $binary"

. deploy/demo-cluster.sh
printf 'Starting three primaries and three replicas ...\n'
start_cluster

port=$(free_port) admin=$(free_port)
# The application waits for up to 30 s. That is how Breakwater knows that it may wait for a failover on its behalf.
cat >"$stage/breakwater.toml" <<EOF
[[listener]]
address = "127.0.0.1:$port"
client_timeout = "30s"
[[listener]]
address = "unix:$socket"
[upstream]
url = "redis-cluster://127.0.0.1:${nodes[0]},127.0.0.1:${nodes[1]},127.0.0.1:${nodes[2]}"
EOF
"$binary" run --config "$stage/breakwater.toml" --admin "127.0.0.1:$admin" >"$stage/breakwater.log" 2>&1 &
proxy=$!
pids+=("$proxy")
wait_until "Breakwater answers" through PING

# --- the tour ----------------------------------------------------------------------------------

title "redis-cli :$port  ->  Breakwater  ->  a Redis Cluster on :${nodes[*]}"

title "1. It looks like one Redis on localhost, whatever slot a key is in."
show redis-cli -p "$port" MSET city:1 Oslo city:2 Lima city:3 Pune
show redis-cli -p "$port" MGET city:1 city:2 city:3
printf '\n  The cluster itself wants a client that knows of slots:\n'
show redis-cli -p "${nodes[0]}" MGET city:1 city:2 city:3
for i in {4..10}; do through SET "city:$i" "city number $i" >/dev/null; done

title "2. A pipeline of 1,000 commands to all shards: every reply comes back, in order."
printf "  %s\$ printf 'INCR key:%%s\\\\r\\\\n' {1..1000} | redis-cli -p %s --pipe%s\n" "$dim" "$port" "$plain"
printf 'INCR key:%s\r\n' {1..1000} | through --pipe --pipe-timeout 5 2>&1 | tail -n 1 | indent
show redis-cli -p "$port" DBSIZE

title "3. RESP3 beside RESP2, and a unix socket for neighbours in one pod."
through HSET user:1 name Ada language Rust >/dev/null
show redis-cli -p "$port" --no-raw HGETALL user:1
show redis-cli -s "$socket" -3 --no-raw HGETALL user:1

title "4. What cannot be done honestly is refused as Redis does it; never a wrong answer."
show redis-cli -p "$port" MSETNX city:1 x city:2 y
show redis-cli -p "$port" GTE greeting
printf '\n  What would stop or empty the servers is refused, with the rule and what to do instead:\n'
show redis-cli -p "$port" KEYS "city:*"
show redis-cli -p "$port" FLUSHALL
show redis-cli -p "$port" EVAL "while true do end" 0

title "5. A thousand slots move to another node, while clients read and write."
begin reads
begin writes
printf '  %s$ redis-cli --cluster reshard 127.0.0.1:%s --cluster-slots 1000 ...%s\n' "$dim" "${nodes[0]}" "$plain"
redis-cli --cluster reshard "127.0.0.1:${nodes[0]}" --cluster-from "$(redis-cli -p "${nodes[0]}" CLUSTER MYID)" \
  --cluster-to "$(redis-cli -p "${nodes[1]}" CLUSTER MYID)" --cluster-slots 1000 --cluster-yes \
  >"$stage/reshard.log" 2>&1 || fail "$(tail -n 3 "$stage/reshard.log")"
printf '    %s slots moved\n' "$(grep -c '^Moving slot' "$stage/reshard.log")"
finish reads
finish writes

title "6. A primary hands over to its replica, as before an upgrade."
heir=$(replica_of "${nodes[1]}")
begin reads
begin writes
show redis-cli -p "$heir" CLUSTER FAILOVER
wait_until "the replica has taken over" is_primary "$heir"
sleep 1
finish reads
finish writes
planned=$errors

title "7. A primary is killed."
heir=$(replica_of "${nodes[0]}")
begin reads
begin writes
sleep 0.5
printf '  %s$ kill -9 PID   (the primary on :%s)%s\n' "$dim" "${nodes[0]}" "$plain"
{ kill -9 "${node_pids[0]}" && wait "${node_pids[0]}"; } 2>/dev/null || true
wait_until "its replica has taken over" is_primary "$heir"
sleep 1
finish reads
finish writes

title "8. The count."
printf '    INCRs acknowledged: %s, outcome unknown: %s, counted by Redis: %s\n' "$acknowledged" "$unknown" "$(counted)"
printf '    errors while slots moved and a primary handed over: %s\n' "$planned"
printf '    errors when a primary was killed: %s\n' "$((errors - planned))"
if [ "$unknown" -gt 0 ]; then
  printf '    %s INCRs were with that primary when it died. Only it knew whether it had run them:\n' "$unknown"
  printf '    Breakwater neither repeats them nor calls them done.\n'
fi
printf '    %serrors that could have been avoided: %s%s\n' "$bold" "$((errors - unknown))" "$plain"

title "9. Metrics and readiness over HTTP."
printf '  %s$ curl http://127.0.0.1:%s/readyz%s\n' "$dim" "$admin" "$plain"
http_get /readyz | indent
printf '\n  %s$ curl http://127.0.0.1:%s/metrics%s   (what the clients did not see)\n' "$dim" "$admin" "$plain"
http_get /metrics | awk '/^breakwater_commands_redirected_total/ && $2 > 0' | indent

title "10. SIGTERM drains: no new clients, what is in flight finishes, then the process ends."
kill -TERM "$proxy"
status=0
wait "$proxy" || status=$?
printf '    exit status %s\n' "$status"
[ "$status" -eq 0 ] || fail "a drained Breakwater exits with 0"

title "Point your own application at it:"
cat <<EOF
    $binary run --listen 127.0.0.1:6380 --upstream redis-cluster://YOUR-REDIS:6379
    # and in the application: redis://127.0.0.1:6380 where the cluster's client was
EOF
