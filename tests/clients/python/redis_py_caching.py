"""redis-py's client-side cache: RESP3, CLIENT TRACKING, and invalidations pushed between replies."""

import redis
from redis.cache import CacheConfig
from redis.connection import CacheProxyConnection

from stage import URL, expect, in_threads, perform, until

PREFIX = "redis-py-caching:"
# The library wants Redis 7.4, for the sake of products that are not Redis; tracking has been the same since 6.
CacheProxyConnection.MIN_ALLOWED_VERSION = "6.0.0"

writer = redis.Redis.from_url(URL, protocol=3, decode_responses=True)


def reader():
    return redis.Redis.from_url(URL, protocol=3, decode_responses=True, cache_config=CacheConfig(max_size=1_000))


def served_from_the_cache_until_somebody_writes():
    key = PREFIX + "key"
    writer.set(key, "old")
    caching = reader()
    expect(caching.get(key), "old")
    expect(caching.get_cache().size, 1)
    calls = get_calls()
    expect([caching.get(key) for _ in range(100)], ["old"] * 100)
    expect(get_calls(), calls)
    writer.set(key, "new")
    until("the new value is seen", lambda: caching.get(key) == "new")
    writer.delete(key)
    until("the deletion is seen", lambda: caching.get(key) is None)
    caching.close()


def get_calls():
    """How many GETs the server itself has run."""
    return writer.info("commandstats")["cmdstat_get"]["calls"]


def every_reader_learns_of_every_write():
    readers = [reader() for _ in range(4)]
    for round_ in range(10):
        writer.mset({f"{PREFIX}many:{number}": round_ for number in range(50)})

        def catch_up(one):
            for number in range(50):
                key = f"{PREFIX}many:{number}"
                until(f"{key} is {round_}", lambda: readers[one].get(key) == str(round_))

        in_threads(4, catch_up)()
    expect([one.get_cache().size for one in readers], [50] * 4)
    # What expires is told as well.
    writer.pexpire(PREFIX + "many:0", 20)
    until("the end of a key is seen", lambda: readers[0].get(PREFIX + "many:0") is None)
    for one in readers:
        one.close()


def own_writes_are_seen_at_once():
    caching = reader()
    for number in range(100):
        caching.set(PREFIX + "own", number)
        expect(caching.get(PREFIX + "own"), str(number))
    caching.hset(PREFIX + "hash", mapping={"a": 1})
    expect(caching.hgetall(PREFIX + "hash"), {"a": "1"})
    caching.hset(PREFIX + "hash", "b", 2)
    expect(caching.hgetall(PREFIX + "hash"), {"a": "1", "b": "2"})
    caching.close()


def flush_empties_the_cache():
    caching = reader()
    writer.set(PREFIX + "flushed", 1)
    expect(caching.get(PREFIX + "flushed"), "1")
    writer.flushdb()
    until("nothing is left", lambda: caching.get(PREFIX + "flushed") is None)
    caching.close()


perform(
    served_from_the_cache_until_somebody_writes,
    every_reader_learns_of_every_write,
    own_writes_are_seen_at_once,
    flush_empties_the_cache,
)
