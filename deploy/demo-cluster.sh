# Sourced by demo.sh: a Redis Cluster of six nodes on this machine, and clients that work on it and count.
#
# Owns the nodes' processes and the load. Clients are `redis-cli --pipe`, which counts replies and errors by itself; what
# they are sent comes from loops that pause, so that the machine is not busy with the demo alone.

nodes=()    # their ports: three primaries, then their replicas
node_pids=() # in the same order

# A port that is free together with its cluster bus, which is 10,000 above.
free_node_port() {
  local port
  while :; do
    port=$((10000 + RANDOM % 10000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && continue
    (exec 3<>"/dev/tcp/127.0.0.1/$((port + 10000))") 2>/dev/null || break
  done
  printf '%s' "$port"
}

# A node is taken for dead after a second of silence: nobody wants to watch for longer.
start_node() {
  local port
  port=$(free_node_port)
  mkdir "$stage/$port"
  redis-server --port "$port" --bind 127.0.0.1 --save '' --appendonly no --dir "$stage/$port" \
    --cluster-enabled yes --cluster-node-timeout 1000 --repl-diskless-sync-delay 0 \
    >"$stage/$port/redis.log" 2>&1 &
  node_pids+=($!)
  pids+=($!)
  nodes+=("$port")
}

# Every node says that the cluster is whole, and every replica that it has its primary's data.
is_whole() {
  local port
  for port in "${nodes[@]}"; do
    redis-cli -p "$port" CLUSTER INFO | grep -q 'cluster_state:ok' || return 1
    ! redis-cli -p "$port" INFO replication | grep -q 'master_link_status:down' || return 1
  done
}

start_cluster() {
  local i port
  for i in 1 2 3 4 5 6; do start_node; done
  for port in "${nodes[@]}"; do wait_until "node $port answers" redis-cli -p "$port" PING; done
  redis-cli --cluster create "${nodes[@]/#/127.0.0.1:}" --cluster-replicas 1 --cluster-yes \
    >"$stage/create.log" 2>&1 || fail "$(tail -n 3 "$stage/create.log")"
  wait_until "the cluster is whole" is_whole
}

# The replica of a primary, by its port.
replica_of() {
  redis-cli -p "$1" CLUSTER REPLICAS "$(redis-cli -p "$1" CLUSTER MYID)" |
    awk '{ split($2, address, /[:@]/); print address[2]; exit }'
}

is_primary() { [ "$(redis-cli -p "$1" ROLE | head -n 1)" = master ]; }

# --- the load ----------------------------------------------------------------------------------

# One round of each kind of work, in Redis's inline form. Keys lie all over the slots.
writes=$(printf 'INCR visits:%s\\r\\n' {1..20})
reads=$(printf 'GET city:%s\\r\\n' {1..10} && printf 'MGET' && printf ' city:%s' {1..10} && printf '\\r\\n')

errors=0 acknowledged=0 unknown=0

# Sends rounds of the work in the variable of that name until it is told to stop.
begin() {
  local name=$1
  : >"$stage/$name.on"
  while [ -e "$stage/$name.on" ]; do
    printf '%b' "${!name}"
    sleep 0.01
  done | redis-cli -p "$port" --pipe --pipe-timeout 30 >"$stage/$name.said" 2>&1 &
  pids+=($!)
}

# Stops it, shows what it counted, and adds that to the sums.
finish() {
  local name=$1 said=$stage/$1.said failed replied
  rm "$stage/$name.on"
  wait_until "all $name are answered" grep -q '^errors: ' "$said"
  read -r failed replied < <(grep '^errors: ' "$said" | tr -cd '0-9 \n')
  printf '    %s: %s replies, %s errors\n' "$name" "$replied" "$failed"
  grep -E '^[A-Z]+ ' "$said" | sort | uniq -c | head -n 5 | sed 's/^/    /' || true
  errors=$((errors + failed))
  if [ "$name" = writes ]; then
    acknowledged=$((acknowledged + replied - failed))
    unknown=$((unknown + $(grep -c 'outcome unknown' "$said" || true)))
  fi
}

# What the counters hold together.
counted() { redis-cli -p "$port" MGET visits:{1..20} | awk '{ sum += $1 } END { print sum + 0 }'; }
