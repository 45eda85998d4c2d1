"""redis.asyncio: pipelines, transactions, blocking pops, subscriptions, scripts and locks of one event loop."""

import asyncio

import redis.asyncio as redis

from stage import PATIENCE_S, PROTOCOL, URL, expect, perform, until_async

PREFIX = "redis-py-asyncio:"


def connect(**options):
    return redis.Redis.from_url(URL, protocol=PROTOCOL, decode_responses=True, **options)


async def many_commands_at_once():
    # Sixty-four tasks share at most eight connections; one without a connection waits for its turn.
    pool = redis.BlockingConnectionPool.from_url(
        URL, protocol=PROTOCOL, decode_responses=True, max_connections=8, timeout=PATIENCE_S
    )
    async with redis.Redis(connection_pool=pool) as client:

        async def work(number):
            key = f"{PREFIX}work:{number}"
            return [(await client.incr(key), await client.get(key)) for _ in range(20)]

        expect(await asyncio.gather(*map(work, range(64))), [[(n, str(n)) for n in range(1, 21)]] * 64)
    await pool.disconnect()


async def pipelines_and_transactions():
    async with connect() as client:
        for transaction in (False, True):
            async with client.pipeline(transaction=transaction) as pipe:
                for number in range(200):
                    pipe.set(f"{PREFIX}{number}", number).get(f"{PREFIX}{number}")
                wanted = [value for number in range(200) for value in (True, str(number))]
                expect(await pipe.execute(), wanted)
        key = PREFIX + "watched"

        async def increment(pipe):
            value = int(await pipe.get(key) or 0)
            pipe.multi()
            pipe.set(key, value + 1)

        await asyncio.gather(*[client.transaction(increment, key) for _ in range(40)])
        expect(await client.get(key), "40")


async def blocking_pops():
    async with connect() as client:
        key = PREFIX + "queue"
        expect(await client.blpop([key], timeout=0.05), None)
        waiting = [asyncio.create_task(client.blpop([key], timeout=PATIENCE_S)) for _ in range(10)]
        await until_async("all are blocked", lambda: are_blocked(client, 10))
        await client.rpush(key, *range(10))
        expect(sorted(int(element) for _, element in await asyncio.gather(*waiting)), list(range(10)))
        # Who stops waiting takes nothing away from the others.
        task = asyncio.create_task(client.brpop([key], timeout=PATIENCE_S))
        await until_async("it is blocked", lambda: are_blocked(client, 1))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until_async("nobody is blocked", lambda: are_blocked(client, 0))
        expect(await client.rpush(key, "kept"), 1)
        expect(await client.lrange(key, 0, -1), ["kept"])


async def are_blocked(client, count):
    return (await client.info("clients"))["blocked_clients"] == count


async def subscriptions():
    channel = PREFIX + "news"
    async with connect() as client, client.pubsub() as pubsub:
        await pubsub.subscribe(channel)
        await pubsub.psubscribe(PREFIX + "*")
        kinds = [(await next_message(pubsub))["type"] for _ in range(2)]
        expect(sorted(kinds), ["psubscribe", "subscribe"])
        publishing = asyncio.gather(*[client.publish(channel, number) for number in range(50)])
        got = {"message": [], "pmessage": []}
        for _ in range(100):
            message = await next_message(pubsub)
            got[message["type"]].append(message["data"])
        expect(await publishing, [2] * 50)
        # Many connections published at once, so only the order of the two kinds among themselves is known.
        expect(got["message"], got["pmessage"])
        expect(sorted(map(int, got["message"])), list(range(50)))
        await pubsub.unsubscribe(channel)
        await pubsub.punsubscribe()
        expect([(await next_message(pubsub))["data"] for _ in range(2)], [1, 0])
        expect(await client.publish(channel, "nobody"), 0)


async def next_message(pubsub):
    return await until_async("a message comes", lambda: pubsub.get_message(timeout=1))


async def scripts_and_locks():
    async with connect() as client:
        double = client.register_script("return redis.call('GET', KEYS[1]) * 2")
        await client.set(PREFIX + "n", 21)
        expect(await double(keys=[PREFIX + "n"]), 42)
        await client.script_flush()
        expect(await double(keys=[PREFIX + "n"]), 42)
        inside = 0

        async def work():
            nonlocal inside
            async with client.lock(PREFIX + "lock", timeout=PATIENCE_S, sleep=0.002):
                inside += 1
                expect(inside, 1)
                await client.incr(PREFIX + "guarded")
                inside -= 1

        await asyncio.gather(*[work() for _ in range(12)])
        expect(await client.get(PREFIX + "guarded"), "12")


async def scans_streams_and_databases():
    async with connect(db=5) as client, connect() as first:
        keys = {f"{PREFIX}scan:{number}" for number in range(300)}
        await client.mset({key: 1 for key in keys})
        expect({key async for key in client.scan_iter(match=PREFIX + "scan:*", count=50)}, keys)
        expect([key async for key in first.scan_iter(match=PREFIX + "scan:*")], [])
        stream = PREFIX + "stream"
        await client.xgroup_create(stream, "group", mkstream=True)
        reading = asyncio.create_task(
            client.xreadgroup("group", "ann", {stream: ">"}, block=PATIENCE_S * 1_000)
        )
        await until_async("the reader waits", lambda: are_blocked(client, 1))
        entry = await client.xadd(stream, {"job": "a"})
        expect(stream in str(await reading), True)
        expect(await client.xack(stream, "group", entry), 1)


perform(
    many_commands_at_once,
    pipelines_and_transactions,
    blocking_pops,
    subscriptions,
    scripts_and_locks,
    scans_streams_and_databases,
)
