"""The slow-reader cell: one client asks for 1,000 values of 1 MiB and does not read for 10 s.

Owns that client, the 20 well-behaved clients beside it, and what is learnt: the peak of the proxy's
resident memory above what it had before, whether every byte arrived in the end, and whether the
others' latency kept. The others run in a process of their own and ask at a fixed pace, not as fast
as they can: a closed loop would hide a stall behind the few questions that it lets through.
Never judges; `bars.py` does. Each target is a fresh process, so that its peak is this cell's.
"""

import contextlib
import dataclasses
import math
import multiprocessing
import selectors
import socket
import time

import measure
import progress
import resp
import servers

REQUESTS = 1_000
VALUE_BYTES = 1 << 20
KEYS = 16
STALL_SECONDS = 10.0
READ_SECONDS_MAX = 120.0

OTHERS = 20
OTHERS_PERIOD_SECONDS = 0.010
OTHERS_KEY = "small"
OTHERS_VALUE_BYTES = 64
# The first questions pay for connecting and are left out of the time before.
WARM_UP_SECONDS = 1.0
BEFORE_SECONDS = 4.0
# The child ends by itself even if nobody is left to tell it.
OTHERS_SECONDS_MAX = BEFORE_SECONDS + STALL_SECONDS + READ_SECONDS_MAX + 30.0


@dataclasses.dataclass
class Phase:
    """Latency of the others' GETs in ms while something went on."""

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclasses.dataclass
class SlowReaderResult:
    """Memory in bytes: `before` the slow client came, and the peaks until it began to read and
    until it had read everything. `verified` of REQUESTS replies equalled the stored value, byte for
    byte."""

    before: int | None = None
    peak_stalled: int | None = None
    peak_reading: int | None = None
    verified: int = 0
    read_seconds: float | None = None
    phases: dict = dataclasses.field(default_factory=dict)
    failure: str | None = None

    def cost(self):
        """Peak memory above the memory before, in bytes."""
        peaks = [peak for peak in (self.peak_stalled, self.peak_reading) if peak is not None]
        return max(peaks) - self.before if peaks else None


def run(fleet, names):
    """Name → SlowReaderResult for direct Redis and each of `names`."""
    resp.preload(fleet.redis.port, KEYS, VALUE_BYTES)
    with resp.Client(fleet.redis.port) as client:
        client.call("SET", OTHERS_KEY, resp.value_of(0, OTHERS_VALUE_BYTES))
    results = {}
    for name in ["direct", *names]:
        progress.show(f"slow-reader: {name}")
        results[name] = result = SlowReaderResult()
        try:
            _measure(fleet, name, result)
        except (servers.StartError, measure.RunError, resp.ReplyError, OSError) as error:
            result.failure = str(error) or type(error).__name__
            progress.warn(f"slow-reader: {name}: {result.failure}")
    progress.show("")
    return results


def _measure(fleet, name, result):
    server = fleet.redis if name == "direct" else fleet.fresh(name)
    with contextlib.ExitStack() as stack:
        if server is not fleet.redis:
            stack.callback(server.stop)
        others = stack.enter_context(Others(server.port))
        time.sleep(BEFORE_SECONDS)
        result.before = measure.memory_bytes(server.pid)
        times = [time.monotonic()]
        slow = stack.enter_context(contextlib.closing(_ask_for_everything(server.port)))
        _stall(slow, times[0] + STALL_SECONDS)
        result.peak_stalled = measure.memory_bytes(server.pid, "VmHWM")
        times.append(time.monotonic())
        try:
            _read_everything(slow, result)
        finally:
            result.read_seconds = time.monotonic() - times[1]
            if server.is_alive():
                result.peak_reading = measure.memory_bytes(server.pid, "VmHWM")
            result.phases = _phases(others.stop(), times)


def _ask_for_everything(port):
    """Connects the slow client and queues its requests: 36 KiB, which the kernel's buffers take
    even from a proxy that stops reading the client."""
    slow = socket.create_connection(("127.0.0.1", port), timeout=READ_SECONDS_MAX)
    try:
        slow.sendall(b"".join(resp.command("GET", resp.key_of(i % KEYS)) for i in range(REQUESTS)))
    except OSError:
        slow.close()
        raise
    return slow


def _stall(slow, until):
    """Does not read, but notices when the other side gives up on the client."""
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.5))
        if slow.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise resp.ReplyError("the slow client was disconnected while it did not read")


def _read_everything(slow, result):
    """Reads all replies and compares each of their bytes."""
    deadline = time.monotonic() + READ_SECONDS_MAX
    frames = [b"$%d\r\n%s\r\n" % (VALUE_BYTES, resp.value_of(i, VALUE_BYTES)) for i in range(KEYS)]
    frame = bytearray(len(frames[0]))
    for number in range(REQUESTS):
        filled = 0
        while filled < len(frame):
            if time.monotonic() > deadline:
                raise resp.ReplyError(f"only {number} replies within {READ_SECONDS_MAX:.0f} s")
            received = slow.recv_into(memoryview(frame)[filled:])
            if received == 0:
                raise resp.ReplyError(f"closed after {number} replies and {filled} bytes")
            filled += received
        if frame != frames[number % KEYS]:
            raise resp.ReplyError(f"reply {number} differs from the stored value: {frame[:60]!r}")
        result.verified += 1


def _phases(latencies, times):
    """Splits (started, latency) pairs by when the wait ended: a question that was asked just before
    the slow client came, and then had to wait for it, belongs to the stall."""
    bounds = {"before": (times[0] - BEFORE_SECONDS + WARM_UP_SECONDS, times[0]),
              "stalled": (times[0], times[1]), "reading": (times[1], math.inf)}
    phases = {}
    for name, (start, end) in bounds.items():
        chosen = sorted(wait for asked, wait in latencies if start <= asked + wait < end)
        if chosen:
            phases[name] = Phase(len(chosen), measure.percentile(chosen, 50) * 1e3,
                                 measure.percentile(chosen, 99) * 1e3, chosen[-1] * 1e3)
    return phases


class Others:
    """The clients beside the slow one, in a child process. `stop` returns (started, latency) pairs
    in seconds of the monotonic clock, which all processes of a machine share."""

    def __init__(self, port):
        context = multiprocessing.get_context("fork")
        self.pipe, child_pipe = context.Pipe()
        self.process = context.Process(target=_ask_at_a_pace, args=(port, child_pipe), daemon=True)
        self.process.start()
        child_pipe.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.pipe.close()

    def stop(self):
        """Ends the asking and returns what was measured; ReplyError if the clients failed."""
        try:
            self.pipe.send("stop")
            if self.pipe.poll(10.0):
                outcome = self.pipe.recv()
                if isinstance(outcome, list):
                    return outcome
                raise resp.ReplyError(f"the other clients: {outcome}")
        except (EOFError, OSError) as error:
            raise resp.ReplyError(f"the other clients ended early: {error}") from error
        raise resp.ReplyError("the other clients do not answer")


def _ask_at_a_pace(port, pipe):
    """The child: every client asks once a period; what is late is asked at once, and its latency
    counts from when it should have been asked, so that a stall is not left out."""
    latencies = []
    try:
        _ask_until_told(port, pipe, latencies)
        pipe.send(latencies)
    except (OSError, resp.ReplyError) as error:
        # What cannot be measured any more is reported when the parent asks.
        pipe.send(str(error))


def _ask_until_told(port, pipe, latencies):
    question = resp.command("GET", OTHERS_KEY)
    length = len(b"$%d\r\n\r\n" % OTHERS_VALUE_BYTES) + OTHERS_VALUE_BYTES
    end = time.monotonic() + OTHERS_SECONDS_MAX
    # select(2), because epoll's time-outs are whole milliseconds: questions would start too late.
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.SelectSelector())
        clients = []
        for index in range(OTHERS):
            client = stack.enter_context(resp.Client(port, timeout=READ_SECONDS_MAX)).socket
            # [socket, when to ask next, bytes of the reply still missing]
            clients.append([client, time.monotonic() + index * OTHERS_PERIOD_SECONDS / OTHERS, 0])
            selector.register(client, selectors.EVENT_READ, clients[-1])
        while not pipe.poll() and time.monotonic() < end:
            now = time.monotonic()
            for client in clients:
                if client[2] == 0 and client[1] <= now:
                    client[2] = length
                    client[0].sendall(question)
            due = min((c[1] for c in clients if c[2] == 0), default=now + OTHERS_PERIOD_SECONDS)
            for ready, _ in selector.select(max(0.0, due - time.monotonic())):
                _take(ready.data, latencies)
        # Who still waits has waited so long at least; without them a lasting stall would not show.
        now = time.monotonic()
        latencies += [(due, now - due) for _, due, missing in clients if missing]


def _take(client, latencies):
    """Takes what has arrived for one client; a complete reply becomes a pair of the list."""
    received = client[0].recv(client[2] or 1)
    if not received:
        raise resp.ReplyError("one of them was disconnected")
    client[2] -= len(received)
    if client[2] == 0:
        latencies.append((client[1], time.monotonic() - client[1]))
        client[1] += OTHERS_PERIOD_SECONDS
