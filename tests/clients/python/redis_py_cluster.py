"""redis-py in cluster mode: it asks for the nodes, is told one, and finds every key there."""

import asyncio

import redis
import redis.asyncio
from redis.cluster import LoadBalancingStrategy, RedisCluster

from stage import PROTOCOL, URL, expect, in_threads, perform, until

PREFIX = "redis-py-cluster:"
# As redis-cli's cluster tests have it: far more keys than shards, so that every shard has some.
KEYS = [f"{PREFIX}{number}" for number in range(300)]
# Primaries and replicas in turn.
ANYBODY = LoadBalancingStrategy.ROUND_ROBIN
client = RedisCluster.from_url(URL, protocol=PROTOCOL, decode_responses=True)


def there_is_one_node_and_it_is_where_we_called():
    [node] = client.get_nodes()
    wanted = redis.connection.parse_url(URL)
    expect((node.host, node.port, node.server_type), (wanted["host"], wanted["port"], "primary"))
    expect(client.get_replicas(), [])
    expect({client.get_node_from_key(key) for key in KEYS}, {node})
    [(address, seen)] = client.cluster_nodes().items()
    expect(address, f"{node.host}:{node.port}")
    expect((seen["flags"], seen["connected"], seen["slots"]), ("myself,master", True, [["0", "16383"]]))
    expect(client.cluster_myid(node), seen["node_id"])
    info = client.cluster_info()
    expect((info["cluster_state"], info["cluster_slots_ok"], info["cluster_size"]), ("ok", "16384", "1"))
    [shard] = client.cluster_shards()
    # (Pairs with RESP2, the plain list with RESP3.)
    expect([number for pair in shard["slots"] for number in (pair if PROTOCOL == 2 else [pair])], [0, 16383])
    expect((shard["nodes"][0]["port"], shard["nodes"][0]["role"]), (node.port, "master"))
    expect(client.cluster_keyslot("foo"), 12182)
    expect(client.cluster_links(node), [])
    expect(client.info("server", target_nodes=node)["redis_mode"], "cluster")


def keys_of_all_shards():
    for key in KEYS:
        expect(client.set(key, key.upper()), True)
    expect([client.get(key) for key in KEYS], [key.upper() for key in KEYS])
    expect(client.incr(PREFIX + "number", 41) + client.decr(PREFIX + "number"), 81)
    expect([client.get(PREFIX + "none"), client.delete(KEYS[0]), client.exists(KEYS[0])], [None, 1, 0])
    try:
        client.incr(KEYS[1])
        raise AssertionError("a text was incremented")
    except redis.ResponseError as error:
        expect(str(error), "value is not an integer or out of range")


def keys_of_one_slot():
    pairs = {f"{PREFIX}{{tag}}:{number}": str(number) for number in range(50)}
    expect(client.mset(pairs), True)
    expect(client.mget(*pairs, f"{PREFIX}{{tag}}:none"), [*pairs.values(), None])
    expect(client.delete(*pairs), 50)


def keys_of_many_slots_at_once():
    # The library splits these itself, a command for each slot.
    expect(set(client.mset_nonatomic({key: "x" for key in KEYS})), {True})
    expect(client.mget_nonatomic(*KEYS), ["x"] * len(KEYS))
    expect(client.exists(*KEYS[:20]), 20)


def the_one_node_has_all_keys():
    wanted = set(KEYS)
    expect(client.mset_nonatomic({key: "x" for key in KEYS}) != [], True)
    expect(set(client.scan_iter(match=PREFIX + "*", count=30)) >= wanted, True)
    expect(set(client.keys(PREFIX + "*")) >= wanted, True)
    expect(client.dbsize(), len(client.keys("*")))
    slot = client.cluster_keyslot(KEYS[5])
    expect(client.cluster_countkeysinslot(slot), len(client.cluster_get_keys_in_slot(slot, 100)))
    expect(KEYS[5] in client.cluster_get_keys_in_slot(slot, 100), True)


def pipelines():
    with client.pipeline() as pipe:
        for number, key in enumerate(KEYS):
            pipe.set(key, number).get(key)
        expect(pipe.execute(), [value for number in range(len(KEYS)) for value in (True, str(number))])
        pipe.set(PREFIX + "text", "x").incr(PREFIX + "text").get(PREFIX + "text")
        first, failure, last = pipe.execute(raise_on_error=False)
        expect((first, type(failure), last), (True, redis.ResponseError, "x"))


def pipelines_of_many_threads():
    def work(thread):
        for turn in range(20):
            with client.pipeline() as pipe:
                for key in KEYS[:50]:
                    pipe.set(f"{key}:{thread}", turn).get(f"{key}:{thread}")
                expect(pipe.execute(), [True, str(turn)] * 50)

    in_threads(8, work)()


def transactions():
    key = PREFIX + "{block}"
    with client.pipeline(transaction=True) as pipe:
        pipe.set(key, 1).incr(key).incrby(key + ":other", 40).get(key)
        # (In a cluster the library leaves the replies of a transaction as they are.)
        expect(pipe.execute(), ["OK", 2, 40, "2"])
    with client.pipeline(transaction=True) as pipe:
        pipe.watch(key)
        client.set(key, "from elsewhere")
        pipe.multi()
        pipe.set(key, "lost")
        try:
            pipe.execute()
            raise AssertionError("a change of a watched key went unnoticed")
        except redis.WatchError:
            expect(client.get(key), "from elsewhere")


def scripts():
    expect(client.eval("return {KEYS[1], ARGV[1]}", 1, KEYS[7], "a"), [KEYS[7], "a"])
    add = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    # Keys of all shards: the script must be known wherever they lie.
    expect([add(keys=[key + ":sum"], args=[2]) for key in KEYS[:30]], [2] * 30)


def blocking_pops():
    keys = [f"{PREFIX}queue:{number}" for number in range(6)]
    join = in_threads(6, lambda number: client.blpop([keys[number]], timeout=60))
    for key in keys:
        expect(client.rpush(key, key.upper()), 1)
    expect([list(popped) for popped in join()], [[key, key.upper()] for key in keys])


def publish_and_subscribe():
    pubsub = client.pubsub()
    pubsub.subscribe(PREFIX + "news")
    pubsub.psubscribe(PREFIX + "n?ws")
    expect([next_message(pubsub)["data"] for _ in range(2)], [1, 2])
    client.publish(PREFIX + "news", "hello")
    expect([next_message(pubsub)["data"] for _ in range(2)], ["hello"] * 2)
    pubsub.close()


def sharded_channels():
    channels = [f"{PREFIX}shard:{number}" for number in range(6)]
    pubsub = client.pubsub()
    pubsub.ssubscribe(*channels)
    sharded = lambda: pubsub.get_sharded_message(timeout=1)
    expect({until("it is confirmed", sharded)["channel"] for _ in channels}, set(channels))
    for channel in channels:
        expect(client.spublish(channel, channel.upper()), 1)
    got = [until("a message comes", sharded) for _ in channels]
    expect({(one["channel"], one["data"]) for one in got}, {(one, one.upper()) for one in channels})
    pubsub.close()


def next_message(pubsub):
    return until("a message comes", lambda: pubsub.get_message(timeout=1))


def reads_that_may_come_from_replicas():
    # Each of its connections says READONLY first.
    reader = RedisCluster.from_url(URL, protocol=PROTOCOL, decode_responses=True, load_balancing_strategy=ANYBODY)
    client.set(KEYS[3], "here")
    until("it is read", lambda: reader.get(KEYS[3]) == "here")
    reader.close()


async def asynchronously():
    async with redis.asyncio.RedisCluster.from_url(URL, protocol=PROTOCOL, decode_responses=True) as one:
        # (Each of these takes a connection, of which the library allows a hundred.)
        some = KEYS[:50]
        await asyncio.gather(*(one.set(key, "async") for key in some))
        expect(await asyncio.gather(*(one.get(key) for key in some)), ["async"] * 50)
        async with one.pipeline() as pipe:
            for key in some:
                pipe.append(key, "!").strlen(key)
            expect(await pipe.execute(), [6] * 100)


def nobody_is_an_administrator_here():
    [node] = client.get_nodes()
    for attempt in (lambda: client.cluster_meet("127.0.0.1", 1), lambda: client.cluster_save_config(node)):
        try:
            attempt()
            raise AssertionError("the cluster was changed")
        except redis.exceptions.NoPermissionError as error:
            expect("send it to the node itself" in str(error), True)


perform(
    there_is_one_node_and_it_is_where_we_called,
    keys_of_all_shards,
    keys_of_one_slot,
    keys_of_many_slots_at_once,
    the_one_node_has_all_keys,
    pipelines,
    pipelines_of_many_threads,
    transactions,
    scripts,
    blocking_pops,
    publish_and_subscribe,
    sharded_channels,
    reads_that_may_come_from_replicas,
    asynchronously,
    nobody_is_an_administrator_here,
)
