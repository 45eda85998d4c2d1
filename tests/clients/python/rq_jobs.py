"""RQ: workers that fork, results, dependencies, scheduled jobs, failures that are tried again.

Workers import the job functions from this file. A queue is a list that is popped with BLMOVE or LMOVE, everything
that happens to a job is a transaction of several keys, often watched, and the scheduler holds a lock.
"""

import logging
from datetime import timedelta

import redis
from rq import Queue, Repeat, Retry, Worker, get_current_job
from rq.job import Job, JobStatus

from stage import PATIENCE_S, PROTOCOL, URL, expect, perform, until

connection = redis.Redis.from_url(URL, protocol=PROTOCOL)
queue = Queue("rq-jobs", connection=connection)


# The jobs.


def add(x, y):
    return x + y


def count_run(key):
    """Counts itself in Redis, over a connection of its own process."""
    return redis.Redis.from_url(URL, protocol=PROTOCOL).incr(key)


def fail_until_run(key, number):
    if count_run(key) < number:
        raise RuntimeError("not yet")
    return "at last"


def remember():
    job = get_current_job()
    job.meta["by"] = job.worker_name
    job.save_meta()


# The scenes.


def work(**options):
    """A worker takes all there is and goes."""
    worker = Worker([queue], connection=connection)
    worker.work(burst=True, logging_level=logging.WARNING, **options)
    return worker.name


def results_come_back():
    jobs = [queue.enqueue(add, number, number) for number in range(5)]
    expect(queue.job_ids, [job.id for job in jobs])
    expect([job.get_status() for job in jobs], [JobStatus.QUEUED] * 5)
    work()
    expect([job.return_value(refresh=True) for job in jobs], [0, 2, 4, 6, 8])
    expect(set(queue.finished_job_registry.get_job_ids()), {job.id for job in jobs})
    expect((len(queue), Worker.count(connection=connection)), (0, 0))
    # The result is a stream that can be waited for; with RESP3 this release of RQ cannot read the answer.
    expect(jobs[4].latest_result(timeout=PATIENCE_S if PROTOCOL == 2 else 0).return_value, 8)


def many_at_once_in_their_order():
    prepared = [Queue.prepare_data(add, (number, 1)) for number in range(3)]
    jobs = queue.enqueue_many(prepared)
    first = queue.enqueue(remember, at_front=True)
    expect(queue.job_ids, [first.id] + [job.id for job in jobs])
    name = work()
    expect(Job.fetch(first.id, connection).meta, {"by": name})
    expect([job.return_value(refresh=True) for job in jobs], [1, 2, 3])


def dependencies_are_kept():
    first = queue.enqueue(add, 1, 1)
    second = queue.enqueue(add, 2, 2, depends_on=first)
    expect(second.get_status(), JobStatus.DEFERRED)
    expect(queue.job_ids, [first.id])
    work()
    expect([job.return_value(refresh=True) for job in (first, second)], [2, 4])


def scheduled_jobs_wait_for_their_time():
    # RQ cuts times to whole seconds, so two seconds are at least one.
    job = queue.enqueue_in(timedelta(seconds=2), add, 20, 22)
    expect(job.get_status(), JobStatus.SCHEDULED)
    expect(queue.scheduled_job_registry.count, 1)

    def is_done():
        # The worker's scheduler is a process of its own; a burst enqueues what is due and leaves.
        work(with_scheduler=True)
        return job.get_status() == JobStatus.FINISHED

    until("it has run", is_done)
    expect(job.return_value(refresh=True), 42)
    job.refresh()
    expect(job.ended_at - job.created_at >= timedelta(seconds=1), True)
    never = queue.enqueue_in(timedelta(days=1), add, 0, 0)
    never.cancel()
    expect(queue.scheduled_job_registry.count, 0)


def failures_are_tried_again():
    failing = queue.enqueue(fail_until_run, "rq-jobs:attempts", 3, retry=Retry(max=3))
    work()
    expect(failing.return_value(refresh=True), "at last")
    expect(connection.get("rq-jobs:attempts"), b"3")


def failed_jobs_are_kept_and_can_be_requeued():
    job = queue.enqueue(fail_until_run, "rq-jobs:requeued", 2)
    work()
    expect(job.get_status(), JobStatus.FAILED)
    expect(queue.failed_job_registry.get_job_ids(), [job.id])
    expect("RuntimeError: not yet" in job.latest_result().exc_string, True)
    job.requeue()
    work()
    expect(job.get_status(), JobStatus.FINISHED)
    expect(queue.failed_job_registry.count, 0)


def repeated_jobs_are_repeated():
    queue.enqueue(count_run, "rq-jobs:repeated", repeat=Repeat(times=2))
    work()
    expect(connection.get("rq-jobs:repeated"), b"3")


if __name__ == "__main__":
    # What is enqueued must be known by a name that workers can import.
    from rq_jobs import add, count_run, fail_until_run, remember

    perform(
        results_come_back,
        many_at_once_in_their_order,
        dependencies_are_kept,
        scheduled_jobs_wait_for_their_time,
        failures_are_tried_again,
        failed_jobs_are_kept_and_can_be_requeued,
        repeated_jobs_are_repeated,
    )
