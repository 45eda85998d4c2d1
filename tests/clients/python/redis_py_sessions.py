"""redis-py, the part with state: transactions, blocking pops, publish and subscribe, scripts, locks, pools."""

import threading

import redis

from stage import PATIENCE_S, PROTOCOL, URL, expect, in_threads, perform, until

PREFIX = "redis-py-sessions:"
# With this the library checks a connection by PING before practically every command.
IMPATIENT_S = 0.000_001
client = redis.Redis.from_url(URL, protocol=PROTOCOL, decode_responses=True)


def transactions():
    key = PREFIX + "block"
    with client.pipeline(transaction=True) as pipe:
        pipe.set(key, 1).incr(key).incrby(key, 40).get(key)
        expect(pipe.execute(), [True, 2, 42, "42"])
        # An error while it runs spoils its own command only.
        pipe.lpush(key, "x").incr(key)
        failure, after = pipe.execute(raise_on_error=False)
        expect((type(failure), after), (redis.ResponseError, 43))
        # An error while it is queued spoils all of it.
        pipe.incr(key).execute_command("INCR").incr(key)
        try:
            pipe.execute()
            raise AssertionError("a block with a broken command was executed")
        except redis.ResponseError as error:
            expect("wrong number of arguments for 'incr' command" in str(error), True)
    expect(client.get(key), "43")


def optimistic_locking():
    key = PREFIX + "watched"
    with client.pipeline() as pipe:
        pipe.watch(key)
        expect(pipe.get(key), None)
        client.set(key, "from elsewhere")
        pipe.multi()
        pipe.set(key, "lost")
        try:
            pipe.execute()
            raise AssertionError("a change of a watched key went unnoticed")
        except redis.WatchError:
            expect(client.get(key), "from elsewhere")
        # UNWATCH lets go of it.
        pipe.watch(key)
        client.set(key, 0)
        pipe.unwatch()
        pipe.multi()
        expect(pipe.incr(key).execute(), [1])

    def increment(pipe):
        value = int(pipe.get(key))
        pipe.multi()
        pipe.set(key, value + 1)

    join = in_threads(4, lambda _: [client.transaction(increment, key) for _ in range(25)])
    expect(join(), [[[True]] * 25] * 4)
    expect(client.get(key), "101")


def blocking_pops():
    key = PREFIX + "queue"
    expect(client.blpop([key], timeout=0.05), None)
    expect(client.bzpopmin(key, timeout=0.05), None)
    join = in_threads(20, lambda _: client.blpop([key + ":none", key], timeout=PATIENCE_S))
    until("twenty clients are blocked", lambda: blocked() == 20)
    expect(client.rpush(key, *range(20)) > 0, True)
    popped = join()
    expect({name for name, _ in popped}, {key})
    expect(sorted(int(element) for _, element in popped), list(range(20)))
    # A blocked client is woken by the one that moves something to it, and passes it on.
    join = in_threads(1, lambda _: client.blmove(key, key + ":done", PATIENCE_S, "LEFT", "RIGHT"))
    until("it is blocked", lambda: blocked() == 1)
    client.rpush(key, "late")
    expect(join(), ["late"])
    expect(list(client.brpop([key + ":done"], timeout=PATIENCE_S)), [key + ":done", "late"])
    join = in_threads(1, lambda _: client.bzpopmax([key + ":z"], timeout=PATIENCE_S))
    until("it is blocked", lambda: blocked() == 1)
    client.zadd(key + ":z", {"low": 1, "high": 2.5})
    expect(list(join()[0]), [key + ":z", "high", 2.5])


def blocked():
    return client.info("clients")["blocked_clients"]


def blocked_clients_can_be_unblocked():
    one = redis.Redis.from_url(URL, protocol=PROTOCOL, decode_responses=True, single_connection_client=True)
    own_id = one.client_id()
    join = in_threads(1, lambda _: one.brpop([PREFIX + "never"], timeout=0))
    until("it is blocked", lambda: client.client_unblock(own_id))
    expect(join(), [None])
    expect(one.ping(), True)
    one.close()


def streams_that_wait():
    key = PREFIX + "stream"
    client.xgroup_create(key, "group", id="$", mkstream=True)
    block = PATIENCE_S * 1_000
    join = in_threads(2, lambda n: client.xreadgroup("group", f"c{n}", {key: ">"}, count=1, block=block))
    until("both consumers wait", lambda: blocked() == 2)
    client.xadd(key, {"job": "a"})
    client.xadd(key, {"job": "b"})
    expect(sorted(entry["job"] for entry in map(only_entry, join())), ["a", "b"])
    join = in_threads(1, lambda _: client.xread({key: "$"}, block=block))
    until("the reader waits", lambda: blocked() == 1)
    client.xadd(key, {"job": "c"})
    expect(only_entry(join()[0]), {"job": "c"})


def only_entry(reply):
    """The fields of the single entry of a reply: a list of pairs with RESP2, a map of batches with RESP3."""
    [[_, entries]] = reply.items() if isinstance(reply, dict) else reply
    [[_, fields]] = entries[0] if isinstance(reply, dict) else entries
    return fields


def publish_and_subscribe():
    channel = PREFIX + "news"
    handled = []
    # A subscriber that asks PING before everything it does; with RESP2 the answer is a message of its own kind.
    careful = redis.Redis.from_url(URL, protocol=PROTOCOL, decode_responses=True, health_check_interval=IMPATIENT_S)
    pubsub = careful.pubsub()
    pubsub.subscribe(channel, **{PREFIX + "handled": lambda message: handled.append(message["data"])})
    pubsub.psubscribe(PREFIX + "n?ws")
    expect(sorted(next_message(pubsub)["type"] for _ in range(3)), ["psubscribe", "subscribe", "subscribe"])
    # One subscriber, reached twice: by the channel and by the pattern.
    expect(client.publish(channel, "hello"), 2)
    expect(client.publish(PREFIX + "nobody", "hello"), 0)
    got = [next_message(pubsub) for _ in range(2)]
    expect([(m["type"], m["pattern"], m["channel"], m["data"]) for m in got], [
        ("message", None, channel, "hello"),
        ("pmessage", PREFIX + "n?ws", channel, "hello"),
    ])
    expect(client.publish(PREFIX + "handled", "by a function"), 1)
    until("the handler was called", lambda: pubsub.get_message(timeout=0.1) or handled)
    expect(handled, ["by a function"])
    expect(client.pubsub_numsub(channel, PREFIX + "nobody"), [(channel, 1), (PREFIX + "nobody", 0)])
    expect(client.pubsub_numpat(), 1)
    expect(sorted(client.pubsub_channels(PREFIX + "*")), [PREFIX + "handled", channel])
    pubsub.unsubscribe()
    pubsub.punsubscribe()
    expect([next_message(pubsub)["data"] for _ in range(3)], [2, 1, 0])
    expect(client.publish(channel, "nobody listens"), 0)
    pubsub.close()


def next_message(pubsub):
    return until("a message comes", lambda: pubsub.get_message(timeout=1))


def many_messages_come_in_order():
    channel, count = PREFIX + "order", 2_000
    seen, everything = [[], [], []], threading.Event()

    def note(number, message):
        seen[number].append(int(message["data"]))
        if all(len(messages) == count for messages in seen):
            everything.set()

    listeners = []
    for number in range(3):
        pubsub = client.pubsub(ignore_subscribe_messages=True)
        pubsub.subscribe(**{channel: lambda message, number=number: note(number, message)})
        listeners.append(pubsub.run_in_thread(sleep_time=0.1, daemon=True))
    until("all have subscribed", lambda: client.pubsub_numsub(channel) == [(channel, 3)])
    with client.pipeline(transaction=False) as pipe:
        for number in range(count):
            pipe.publish(channel, number)
        expect(pipe.execute(), [3] * count)
    expect(everything.wait(PATIENCE_S), True)
    expect(seen, [list(range(count))] * 3)
    for listener in listeners:
        listener.stop()
        listener.join(PATIENCE_S)


def scripts_and_functions():
    key = PREFIX + "script"
    add = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    expect(add(keys=[key], args=[40]), 40)
    # The server has forgotten it; the library, or whoever stands between, sends the source again.
    expect(client.script_flush(), True)
    expect(add(keys=[key], args=[2]), 42)
    with client.pipeline() as pipe:
        add(keys=[key], args=[1], client=pipe)
        pipe.get(key)
        expect(pipe.execute(), [43, "43"])
    expect(client.script_exists(add.sha), [True])
    expect(client.eval("return {KEYS[1], ARGV[1], 3, false}", 1, "k", "a"), ["k", "a", 3, None])
    try:
        client.eval("return redis.error_reply('MINE it broke')", 0)
        raise AssertionError("a script's error was no error")
    except redis.ResponseError as error:
        expect(str(error), "MINE it broke")
    library = "#!lua name=bw\nredis.register_function('twice', function(keys, args) return args[1] * 2 end)"
    expect(client.function_load(library, replace=True), "bw")
    expect(client.fcall("twice", 0, 21), 42)
    expect(client.function_delete("bw"), True)


def locks_exclude():
    lock = client.lock(PREFIX + "lock", timeout=PATIENCE_S, blocking_timeout=PATIENCE_S)
    counter, inside = PREFIX + "guarded", []

    def work(number):
        for _ in range(5):
            with client.lock(PREFIX + "lock", timeout=PATIENCE_S, blocking_timeout=PATIENCE_S, sleep=0.002):
                inside.append(number)
                expect(len(inside), 1)
                # Without the lock two threads would read the same value.
                client.set(counter, int(client.get(counter) or 0) + 1)
                inside.remove(number)

    in_threads(4, work)()
    expect(client.get(counter), "20")
    expect(lock.acquire(), True)
    expect((lock.locked(), lock.owned(), lock.extend(10), lock.reacquire()), (True, True, True, True))
    expect(client.lock(PREFIX + "lock").acquire(blocking=False), False)
    client.delete(PREFIX + "lock")
    try:
        lock.release()
        raise AssertionError("a lock was released that somebody had taken away")
    except redis.exceptions.LockNotOwnedError:
        pass


def pools_and_health_checks():
    pool = redis.BlockingConnectionPool.from_url(
        URL,
        protocol=PROTOCOL,
        max_connections=4,
        timeout=PATIENCE_S,
        health_check_interval=IMPATIENT_S,
        client_name="pooled",
        decode_responses=True,
    )
    pooled = redis.Redis(connection_pool=pool)
    join = in_threads(16, lambda number: [pooled.incr(PREFIX + f"pool:{number}") for _ in range(50)])
    expect(join(), [list(range(1, 51))] * 16)
    names = [one["name"] for one in client.client_list()]
    expect(1 <= names.count("pooled") <= 4, True)
    expect(pooled.client_getname(), "pooled")
    # Who is disconnected connects again and has its name again.
    pool.disconnect()
    expect(pooled.client_getname(), "pooled")
    pooled.close()
    pool.disconnect()


perform(
    transactions,
    optimistic_locking,
    blocking_pops,
    blocked_clients_can_be_unblocked,
    streams_that_wait,
    publish_and_subscribe,
    many_messages_come_in_order,
    scripts_and_functions,
    locks_exclude,
    pools_and_health_checks,
)
