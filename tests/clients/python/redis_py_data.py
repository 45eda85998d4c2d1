"""redis-py, the part without state: types, encodings, pipelines, scans, streams, other databases."""

import redis

from stage import PROTOCOL, URL, expect, in_threads, perform

PREFIX = "redis-py-data:"
client = redis.Redis.from_url(URL, protocol=PROTOCOL, decode_responses=True)
raw = redis.Redis.from_url(URL, protocol=PROTOCOL)


def strings_and_numbers():
    key = PREFIX + "string"
    everything = bytes(range(256)) * 2_000
    expect(raw.set(key, everything), True)
    expect(raw.get(key) == everything, True)
    expect(raw.strlen(key), 512_000)
    expect(client.set(key, "grüße", ex=100), True)
    expect(client.get(key), "grüße")
    expect(raw.get(key), "grüße".encode())
    expect(0 < client.ttl(key) <= 100, True)
    expect(client.set(key, "no", nx=True), None)
    expect(client.getdel(key), "grüße")
    expect(client.get(key), None)
    expect(client.incrby(key, 41) + client.decr(key), 81)
    expect(client.incrbyfloat(key, 0.5), 40.5)
    expect(client.mset({PREFIX + "a": 1, PREFIX + "b": 2}), True)
    expect(client.mget(PREFIX + "a", PREFIX + "none", PREFIX + "b"), ["1", None, "2"])
    expect(client.delete(PREFIX + "a", PREFIX + "b", PREFIX + "none"), 2)


def hashes():
    key = PREFIX + "hash"
    expect(client.hset(key, mapping={"one": 1, "two": 2, "": "empty"}), 3)
    expect(client.hgetall(key), {"one": "1", "two": "2", "": "empty"})
    expect(client.hincrby(key, "two", 40), 42)
    expect(client.hincrbyfloat(key, "one", 0.25), 1.25)
    expect(client.hmget(key, ["one", "three", "two"]), ["1.25", None, "42"])
    expect(client.hsetnx(key, "one", "no"), 0)
    expect(client.hdel(key, "", "three"), 1)
    expect(client.hexists(key, "two"), True)
    expect(sorted(client.hkeys(key)), ["one", "two"])
    expect(set(client.hrandfield(key, 2)), {"one", "two"})


def collections():
    zset, list_, set_ = PREFIX + "zset", PREFIX + "list", PREFIX + "set"
    expect(client.zadd(zset, {"a": 1, "b": 2.5, "c": float("inf")}), 3)
    # With RESP3 scores travel as doubles, with RESP2 as text; the library gives the same floats.
    pairs = [tuple(pair) for pair in client.zrange(zset, 0, -1, withscores=True)]
    expect(pairs, [("a", 1.0), ("b", 2.5), ("c", float("inf"))])
    expect(client.zscore(zset, "b"), 2.5)
    expect(client.zrank(zset, "none"), None)
    expect(client.rpush(list_, *range(10)), 10)
    expect(client.lrange(list_, 2, 4), ["2", "3", "4"])
    expect(client.lpos(list_, "7"), 7)
    expect(client.sadd(set_, "x", "y", "x"), 2)
    expect(client.smembers(set_), {"x", "y"})
    expect(client.smismember(set_, ["x", "z"]), [1, 0])
    try:
        client.incr(zset)
        raise AssertionError("a sorted set was incremented")
    except redis.ResponseError as error:
        expect(str(error), "WRONGTYPE Operation against a key holding the wrong kind of value")


def pipelines_without_transaction():
    with client.pipeline(transaction=False) as pipe:
        for number in range(1_000):
            pipe.set(f"{PREFIX}pipe:{number}", number).get(f"{PREFIX}pipe:{number}")
        expect(pipe.execute(), [value for number in range(1_000) for value in (True, str(number))])
        pipe.set(PREFIX + "text", "x").incr(PREFIX + "text").get(PREFIX + "text")
        first, failure, last = pipe.execute(raise_on_error=False)
        expect((first, last), (True, "x"))
        expect(str(failure), "value is not an integer or out of range")


def scans_see_every_key_once():
    wanted = {f"{PREFIX}scan:{number}" for number in range(500)}
    expect(client.mset({key: 1 for key in wanted}), True)
    expect(set(client.scan_iter(match=PREFIX + "scan:*", count=37)), wanted)
    fields = {f"field:{number}": str(number) for number in range(600)}
    client.hset(PREFIX + "big-hash", mapping=fields)
    expect(dict(client.hscan_iter(PREFIX + "big-hash")), fields)
    client.sadd(PREFIX + "big-set", *fields)
    expect(set(client.sscan_iter(PREFIX + "big-set", match="field:*9")), {f for f in fields if f.endswith("9")})
    client.zadd(PREFIX + "big-zset", {field: float(score) for field, score in fields.items()})
    expect(dict(client.zscan_iter(PREFIX + "big-zset")), {f: float(score) for f, score in fields.items()})
    expect(set(client.scan_iter(match=PREFIX + "*", _type="zset")), {PREFIX + "zset", PREFIX + "big-zset"})


def streams_with_consumer_groups():
    key, group = PREFIX + "stream", "group"
    ids = [client.xadd(key, {"n": number}) for number in range(10)]
    expect(client.xlen(key), 10)
    expect(client.xrange(key, count=1), [(ids[0], {"n": "0"})])
    expect(client.xgroup_create(key, group, id="0"), True)
    taken = {}
    for consumer, count in (("ann", 4), ("bob", 6)):
        [[_, entries]] = stream_entries(client.xreadgroup(group, consumer, {key: ">"}, count=count))
        taken[consumer] = [entry_id for entry_id, _ in entries]
    expect(taken, {"ann": ids[:4], "bob": ids[4:]})
    expect(stream_entries(client.xreadgroup(group, "ann", {key: ">"})), [])
    expect(client.xack(key, group, *ids[:3]), 3)
    pending = client.xpending(key, group)
    expect((pending["pending"], pending["min"], pending["max"]), (7, ids[3], ids[9]))
    # Ann has died: Bob takes over what she had not acknowledged.
    _, claimed, _ = client.xautoclaim(key, group, "bob", min_idle_time=0, start_id="0", count=1)
    expect(claimed, [(ids[3], {"n": "3"})])
    expect(client.xack(key, group, *ids[3:]), 7)
    expect(client.xinfo_groups(key)[0]["pending"], 0)
    expect(client.xtrim(key, maxlen=2, approximate=False), 8)
    expect([entry_id for entry_id, _ in client.xrevrange(key)], [ids[9], ids[8]])


def stream_entries(reply):
    """RESP2 has a list of pairs, RESP3 a map from stream to batches; both as a list of [stream, entries]."""
    if isinstance(reply, dict):
        return [[stream, sum(batches, [])] for stream, batches in reply.items()]
    return [list(pair) for pair in reply]


def databases_are_apart():
    key = PREFIX + "where"
    clients = [redis.Redis.from_url(URL, protocol=PROTOCOL, db=db, decode_responses=True) for db in range(8)]
    # From eight threads at once, so that commands of all databases are under way together.
    join = in_threads(8, lambda db: [(clients[db].set(key, db), clients[db].get(key)) for _ in range(50)])
    expect(join(), [[(True, str(db))] * 50 for db in range(8)])
    expect(clients[3].dbsize(), 1)
    expect(clients[3].move(key, 9), True)
    expect([one.exists(key) for one in clients], [1, 1, 1, 0, 1, 1, 1, 1])
    with clients[5].pipeline(transaction=False) as pipe:
        expect(pipe.get(key).delete(key).get(key).execute(), ["5", 1, None])
    for one in clients:
        one.close()


def dump_restore_sort_and_object():
    key = PREFIX + "sort"
    client.rpush(key, 3, 1, 2)
    expect(client.sort(key, desc=True), ["3", "2", "1"])
    expect(client.sort(key, store=key + ":sorted"), 3)
    expect(client.lrange(key + ":sorted", 0, -1), ["1", "2", "3"])
    expect(raw.restore(key + ":copy", 0, raw.dump(key)), b"OK")
    expect(client.lrange(key + ":copy", 0, -1), ["3", "1", "2"])
    expect(client.object("ENCODING", key), "listpack" if server_version() >= (7, 2) else "quicklist")
    expect(client.memory_usage(key) > 0, True)
    expect(client.copy(key, key + ":other"), True)


def server_version():
    return tuple(int(part) for part in client.info("server")["redis_version"].split("."))


perform(
    strings_and_numbers,
    hashes,
    collections,
    pipelines_without_transaction,
    scans_see_every_key_once,
    streams_with_consumer_groups,
    databases_are_apart,
    dump_restore_sort_and_object,
)
