"""Celery with Redis as broker and result store: a real worker, results, retries, ETA, groups, chords, control.

This file is the application, too: the worker imports it. Queues are lists and BRPOP, delayed and unacknowledged
tasks are sorted sets and scripts, results come by publish and subscribe, and so do the commands to workers.
"""

import sys
from datetime import datetime, timedelta, timezone

import redis.connection
from celery import Celery, chain, chord, group
from celery.exceptions import TimeoutError as ResultTimeout

from stage import PATIENCE_S, PROTOCOL, URL, expect, perform, start_child, until

# Celery leaves the protocol to redis-py, whose default was 2 for most of its life.
redis.connection.DEFAULT_RESP_VERSION = PROTOCOL

# Celery collects answers of workers for this long, each time; who gets none asks again.
ASK_S = 0.3

app = Celery("celery_jobs", broker=URL + "/1", backend=URL + "/2")
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options={"global_keyprefix": "celery-jobs:"},
    result_backend_transport_options={"global_keyprefix": "celery-results:"},
    # A task that a worker took and did not finish must not vanish.
    task_acks_late=True,
    result_extended=True,
    task_track_started=True,
    worker_hijack_root_logger=False,
)


@app.task
def add(x, y):
    return x + y


@app.task
def total(numbers):
    return sum(numbers)


@app.task
def now(_=None):
    return datetime.now(timezone.utc).timestamp()


@app.task(bind=True, max_retries=3)
def succeeds_at_the_third_attempt(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0.05)
    return self.request.retries


@app.task(autoretry_for=(ZeroDivisionError,), throws=(ZeroDivisionError,), max_retries=1, default_retry_delay=0)
def never_succeeds():
    return 1 / 0


def worker_answers_control_commands():
    def ping():
        expect(worker.poll(), None)
        return app.control.ping(timeout=ASK_S)

    answer = until("the worker answers a ping", ping)
    expect(answer, [{"worker@here": {"ok": "pong"}}])
    expect("celery_jobs.add" in inspected("registered"), True)


def results_come_back():
    expect(add.delay(40, 2).get(timeout=PATIENCE_S), 42)
    results = [add.delay(number, number) for number in range(100)]
    expect([result.get(timeout=PATIENCE_S) for result in results], [2 * number for number in range(100)])
    expect({result.state for result in results}, {"SUCCESS"})
    results[0].forget()
    expect(app.AsyncResult(results[0].id).state, "PENDING")


def delayed_tasks_wait_for_their_time():
    before = datetime.now(timezone.utc)
    by_eta = now.apply_async(eta=before + timedelta(seconds=1.5))
    by_countdown = now.apply_async(countdown=1)
    at_once = now.delay()
    expect(at_once.get(timeout=PATIENCE_S) - before.timestamp() >= 0, True)
    expect(by_countdown.get(timeout=PATIENCE_S) - before.timestamp() >= 1, True)
    expect(by_eta.get(timeout=PATIENCE_S) - before.timestamp() >= 1.5, True)


def failures_are_tried_again_and_then_reported():
    expect(succeeds_at_the_third_attempt.delay().get(timeout=PATIENCE_S), 2)
    failing = never_succeeds.delay()
    try:
        failing.get(timeout=PATIENCE_S)
        raise AssertionError("a division by zero had a result")
    except ZeroDivisionError as error:
        expect(str(error), "division by zero")
    expect(failing.state, "FAILURE")


def groups_chains_and_chords():
    expect(group(add.s(n, 1) for n in range(10))().get(timeout=PATIENCE_S), list(range(1, 11)))
    expect(chain(add.s(1, 2), add.s(3), add.s(4))().get(timeout=PATIENCE_S), 10)
    expect(chord((add.s(n, n) for n in range(10)), total.s())().get(timeout=PATIENCE_S), 90)
    nested = chain(group(add.s(n, 0) for n in range(5)), total.s(), add.s(100))
    expect(nested().get(timeout=PATIENCE_S), 110)


def revoked_and_unconsumed_tasks():
    # Nobody consumes this queue: the result does not come, and the task waits until it is purged.
    stuck = add.apply_async((1, 1), queue="nobody-listens")
    try:
        stuck.get(timeout=0.2)
        raise AssertionError("a task ran that nobody had taken")
    except ResultTimeout:
        pass
    with app.connection_for_write() as connection:
        expect(connection.default_channel.queue_purge("nobody-listens"), 1)
    late = add.apply_async((1, 1), countdown=PATIENCE_S * 60)
    [held] = inspected("scheduled")
    expect(held["request"]["id"], late.id)
    app.control.revoke(late.id)
    expect(inspected("revoked"), [late.id])


def inspected(what):
    """What the worker says of itself, as soon as that is not empty."""

    def ask():
        answers = getattr(app.control.inspect(timeout=ASK_S), what)()
        return (answers or {}).get("worker@here")

    return until(f"the worker tells what is {what}", ask)


def worker_stops_when_told():
    app.control.shutdown()
    until("the worker has ended", lambda: worker.poll() is not None)
    expect(worker.returncode, 0)


if __name__ == "__main__":
    celery = [sys.executable, "-m", "celery", "-A", "celery_jobs"]
    # One process that runs its tasks itself, as small deployments do.
    worker = start_child(*celery, "worker", "--pool=solo", "--hostname=worker@here", "--loglevel=WARNING")
    perform(
        worker_answers_control_commands,
        results_come_back,
        delayed_tasks_wait_for_their_time,
        failures_are_tried_again_and_then_reported,
        groups_chains_and_chords,
        revoked_and_unconsumed_tasks,
        worker_stops_when_told,
    )
