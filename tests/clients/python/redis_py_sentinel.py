"""redis-py with Sentinel: it asks for the master, is told where it called, and works there."""

import asyncio

import redis
import redis.asyncio.sentinel
from redis.sentinel import MasterNotFoundError, Sentinel

from stage import PROTOCOL, URL, expect, perform, until

PREFIX = "redis-py-sentinel:"
address = redis.connection.parse_url(URL)
WHERE = (address["host"], address["port"])
sentinel = Sentinel([WHERE], sentinel_kwargs={"protocol": PROTOCOL}, protocol=PROTOCOL, decode_responses=True)


def there_is_one_master_and_it_is_where_we_called():
    expect(sentinel.discover_master("mymaster"), WHERE)
    expect(sentinel.discover_slaves("mymaster"), [])
    for name in ("other", ""):
        try:
            sentinel.discover_master(name)
            raise AssertionError("a master was found that nobody watches")
        except MasterNotFoundError:
            pass
    [asked] = sentinel.sentinels
    expect(asked.sentinel_get_master_addr_by_name("mymaster")[1], WHERE[1])
    expect(asked.sentinel_sentinels("mymaster"), [])
    expect(asked.sentinel_master("mymaster")["is_master"], True)


def work_at_the_master():
    master = sentinel.master_for("mymaster")
    expect(master.set(PREFIX + "k", "v"), True)
    expect(master.get(PREFIX + "k"), "v")
    with master.pipeline(transaction=True) as pipe:
        expect(pipe.incr(PREFIX + "n").incr(PREFIX + "n").execute(), [1, 2])
    # Without replicas the master reads.
    expect(sentinel.slave_for("mymaster").get(PREFIX + "k"), "v")


def nobody_announces_a_switch():
    channel = sentinel.sentinels[0].pubsub()
    channel.subscribe("+switch-master")
    until("it is subscribed", lambda: channel.get_message(timeout=1))
    expect(channel.get_message(timeout=0.1), None)
    channel.close()


async def asynchronously():
    there = redis.asyncio.sentinel.Sentinel([WHERE], protocol=PROTOCOL, decode_responses=True)
    expect(await there.discover_master("mymaster"), WHERE)
    master = there.master_for("mymaster")
    replies = await asyncio.gather(*(master.incr(PREFIX + "many") for _ in range(50)))
    expect(sorted(replies), list(range(1, 51)))
    await master.aclose()
    await there.sentinels[0].aclose()


perform(
    there_is_one_master_and_it_is_where_we_called,
    work_at_the_master,
    nobody_announces_a_switch,
    asynchronously,
)
