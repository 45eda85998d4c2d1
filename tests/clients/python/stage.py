"""What every script of this folder stands on: where Redis is, patience, and a runner that names what failed.

A script is a list of scenes. A scene does one job of an application and asserts what came of it; it may be a
coroutine. The first that fails ends the script with its name, its traceback and status 1. Nothing here sleeps
for a fixed time in the hope that something has happened: `until` asks again.

REDIS_URL is the address, PROTOCOL (2 or 3) the protocol where the library lets one choose.
"""

import asyncio
import ctypes
import faulthandler
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
import traceback

URL = os.environ["REDIS_URL"]
PROTOCOL = int(os.environ.get("PROTOCOL", "3"))
# How long anything may take that should happen at once: the machine may be busy with others.
PATIENCE_S = 60
# From Linux's <sys/prctl.h>.
PR_SET_PDEATHSIG = 1


def until(what, probe):
    """Asks until the answer is true, and returns it."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if answer := probe():
            return answer
        time.sleep(0.01)
    raise AssertionError(f"waited {PATIENCE_S} s in vain: {what}")


async def until_async(what, probe):
    """As `until`, for a probe that is a coroutine function."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if answer := await probe():
            return answer
        await asyncio.sleep(0.01)
    raise AssertionError(f"waited {PATIENCE_S} s in vain: {what}")


def expect(actual, wanted):
    """Asserts equality; a failure shows both sides."""
    assert actual == wanted, f"got {actual!r}, wanted {wanted!r}"


def in_threads(count, job):
    """Runs job(0) … job(count - 1) beside each other; waiting for the results is left to the caller."""
    results = [None] * count
    failures = []

    def run(number):
        try:
            results[number] = job(number)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()

    def join():
        for thread in threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "a thread did not come to its end"
        if failures:
            raise failures[0]
        return results

    return join


def start_child(*arguments):
    """Starts a process that can import these scripts, and that Linux ends with this one, however this one ends."""

    def die_with_parent():
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    folder = os.path.dirname(os.path.abspath(__file__))
    return subprocess.Popen(arguments, cwd=folder, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)


def perform(*scenes):
    """Runs the scenes in order and ends the process."""
    name = os.path.basename(sys.argv[0])
    for scene in scenes:
        # A scene that hangs shows where: this prints the stack of every thread and exits.
        faulthandler.dump_traceback_later(2 * PATIENCE_S, exit=True)
        try:
            print(f"{name}: {scene.__name__}", flush=True)
            outcome = scene()
            if inspect.iscoroutine(outcome):
                asyncio.run(outcome)
        except BaseException:
            traceback.print_exc()
            print(f"{name}: FAILED in {scene.__name__}", file=sys.stderr, flush=True)
            # Threads of a failed scene may still wait for what will never come.
            os._exit(1)
    faulthandler.cancel_dump_traceback_later()
    print(f"{name}: all {len(scenes)} scenes passed", flush=True)
