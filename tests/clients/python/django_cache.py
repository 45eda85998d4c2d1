"""Django's own Redis cache: values of any type, time limits, counters, versions, many keys at once, sessions."""

import django
import redis
from django.conf import settings

from stage import PATIENCE_S, PROTOCOL, URL, expect, in_threads, perform, until

settings.configure(
    CACHES={
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": URL + "/4",
            "KEY_PREFIX": "django",
            "OPTIONS": {"protocol": PROTOCOL},
        },
    },
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
    USE_TZ=True,
)
django.setup()

from django.contrib.sessions.backends.cache import SessionStore
from django.core.cache import cache


def values_of_any_type():
    page = {"title": "grüße", "parts": [1, 2.5, None, True], "body": b"\x00\xff" * 50_000}
    cache.set("page", page, timeout=PATIENCE_S)
    expect(cache.get("page"), page)
    expect(cache.get("none", default="absent"), "absent")
    cache.set("nothing", None)
    expect(cache.get("nothing", default="absent"), None)
    expect(("page" in cache, "none" in cache), (True, False))
    expect((cache.delete("page"), cache.delete("page")), (True, False))


def only_who_comes_first_adds():
    # What applications use as a lock: one of sixteen threads wins.
    won = in_threads(16, lambda number: cache.add("first", number, timeout=PATIENCE_S))()
    expect(won.count(True), 1)
    expect(cache.get("first"), won.index(True))
    expect(cache.get_or_set("computed", lambda: 42), 42)
    expect(cache.get_or_set("computed", lambda: 43), 42)


def counters_lose_nothing():
    cache.set("hits", 0)
    in_threads(8, lambda _: [cache.incr("hits") for _ in range(50)])()
    expect(cache.get("hits"), 400)
    expect(cache.decr("hits", 100), 300)
    try:
        cache.incr("none")
        raise AssertionError("a counter that does not exist was incremented")
    except ValueError:
        pass


def time_limits():
    cache.set("short", 1, timeout=0.05)
    until("it is gone", lambda: cache.get("short") is None)
    cache.set("touched", 1, timeout=PATIENCE_S)
    direct = redis.Redis.from_url(URL + "/4", protocol=PROTOCOL)
    expect(0 < direct.ttl("django:1:touched") <= PATIENCE_S, True)
    expect(cache.touch("touched", timeout=None), True)
    expect(direct.ttl("django:1:touched"), -1)
    cache.set("never", 1, timeout=0)
    expect(cache.get("never"), None)
    expect(cache.touch("none"), False)


def many_keys_at_once():
    many = {f"key:{number}": {"number": number} for number in range(300)}
    expect(cache.set_many(many, timeout=PATIENCE_S), [])
    expect(cache.get_many([*many, "none"]), many)
    cache.delete_many([f"key:{number}" for number in range(100)])
    expect(len(cache.get_many(many)), 200)


def versions_are_apart():
    cache.set("versioned", "one", version=1)
    cache.set("versioned", "two", version=2)
    expect((cache.get("versioned"), cache.get("versioned", version=2)), ("one", "two"))
    expect(cache.incr_version("versioned", version=2), 3)
    expect((cache.get("versioned", version=2), cache.get("versioned", version=3)), (None, "two"))


def sessions_are_kept():
    session = SessionStore()
    session["user"] = 7
    session.save()
    again = SessionStore(session_key=session.session_key)
    expect(again["user"], 7)
    again.cycle_key()
    expect(SessionStore(session_key=session.session_key).get("user"), None)
    again.flush()


def clear_empties_its_database():
    cache.set("left", 1)
    expect(cache.clear(), True)
    expect(cache.get("left"), None)


perform(
    values_of_any_type,
    only_who_comes_first_adds,
    counters_lose_nothing,
    time_limits,
    many_keys_at_once,
    versions_are_apart,
    sessions_are_kept,
    clear_empties_its_database,
)
