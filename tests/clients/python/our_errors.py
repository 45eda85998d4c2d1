"""redis-py and redis.asyncio meet Breakwater's own errors, and say what they saw.

CASES has a line for each error: its name, where it comes, whether anything is served there, a command, an INCR, and
what follows that in one pipeline. LIBRARY is "sync" or "asyncio". Retries are the library's own, but quicker: three.
"""

import os

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from stage import perform, until, until_async

CASES = [line.split("\t") for line in os.environ["CASES"].splitlines()]
PAUSE_S = 0.01
RETRIES = 3


def say(name, shape, error, is_kept):
    print("seen", name, shape, type(error).__name__, "kept" if is_kept else "new", sep="\t", flush=True)


def shapes(alone, counted, behind):
    return ("alone", [alone.split()]), ("behind", [counted.split(), behind.split()])


def serves(client):
    try:
        client.get("{bar}ready")
        return True
    except redis.RedisError:
        return False


def blocking():
    for name, url, served, *commands in CASES:
        for shape, lines in shapes(*commands):
            client = redis.Redis.from_url(url, retry=Retry(ConstantBackoff(PAUSE_S), RETRIES))
            if served == "served":
                until("it is served", lambda: serves(client))
            before = client.client_id()
            try:
                if shape == "alone":
                    client.execute_command(*lines[0])
                else:
                    pipe = client.pipeline(transaction=False)
                    for words in lines:
                        pipe.execute_command(*words)
                    pipe.execute()
                raise AssertionError("it was not refused")
            except redis.RedisError as error:
                say(name, shape, error, client.client_id() == before)
            client.close()


async def serves_async(client):
    try:
        await client.get("{bar}ready")
        return True
    except redis.RedisError:
        return False


async def with_asyncio():
    for name, url, served, *commands in CASES:
        for shape, lines in shapes(*commands):
            retry = AsyncRetry(ConstantBackoff(PAUSE_S), RETRIES)
            client = redis.asyncio.Redis.from_url(url, retry=retry)
            if served == "served":
                await until_async("it is served", lambda: serves_async(client))
            before = await client.client_id()
            try:
                if shape == "alone":
                    await client.execute_command(*lines[0])
                else:
                    pipe = client.pipeline(transaction=False)
                    for words in lines:
                        pipe.execute_command(*words)
                    await pipe.execute()
                raise AssertionError("it was not refused")
            except redis.RedisError as error:
                say(name, shape, error, await client.client_id() == before)
            await client.aclose()


perform(blocking if os.environ["LIBRARY"] == "sync" else with_asyncio)
