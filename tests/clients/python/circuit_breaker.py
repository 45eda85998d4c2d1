"""An application with a circuit breaker around its client, and the same one without, through an outage.

The breaker opens after five failures in a row, lets nothing through for PAUSE_S seconds and then one command on trial.
The file STARTED is made once both are at work; whoever sees it may take the server away and bring it back.
"""

import os
import pathlib
import time

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from stage import URL, in_threads, perform, until

FAILURES_MAX = 5
PAUSE_S = float(os.environ["PAUSE_S"])
# Between two commands of an application.
EVERY_S = 0.02


class Open(Exception):
    """Nothing was sent."""


class Breaker:
    def __init__(self):
        self.failures = 0
        self.open_until = 0.0

    def call(self, work):
        if time.monotonic() < self.open_until:
            raise Open
        try:
            answer = work()
        except redis.RedisError:
            self.failures += 1
            if self.failures >= FAILURES_MAX:
                self.open_until = time.monotonic() + PAUSE_S
            raise
        self.failures = 0
        return answer


class Unguarded:
    def call(self, work):
        return work()


GUARDS = [("without a breaker", Unguarded()), ("with a breaker", Breaker())]
at_work = [False, False]


def recovers(number):
    name, guard = GUARDS[number]
    client = redis.Redis.from_url(URL, retry=Retry(NoBackoff(), 0))
    failed = 0

    def is_over():
        nonlocal failed
        try:
            guard.call(lambda: client.get("k"))
            at_work[number] = True
            return failed > 0
        except (redis.RedisError, Open):
            failed += 1
            return False
        finally:
            time.sleep(EVERY_S)

    until("it is served again", is_over)
    print("recovered", name, time.time(), failed, sep="\t", flush=True)


def an_outage():
    join = in_threads(2, recovers)
    until("both are at work", lambda: all(at_work))
    pathlib.Path(os.environ["STARTED"]).touch()
    join()


perform(an_outage)
