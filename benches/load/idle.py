"""The idle cell: what 10,000 clients that ask once and then keep quiet cost in memory.

Owns the opening of the clients and the two figures of each target: resident memory of a fresh
process, and bytes more for each idle client. Each client asks once for a small value; then, in a
second stage, once for a 16 KiB one, which shows whether buffers that had to grow are given back.
Never touches the processes of the load cells: their heaps have grown already. A target that cannot
hold so many clients by the machine's limit of open files gets fewer, and the table says how many.
"""

import contextlib
import dataclasses
import resource
import socket
import time

import measure
import peers
import progress
import resp
import servers

CLIENTS = 10_000
SMALL_BYTES = 64
LARGE_BYTES = 16 << 10
# Several source addresses, because one alone has only some 28,000 ports for all that is open or
# lingers in TIME_WAIT.
SOURCES = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")
IP_BIND_ADDRESS_NO_PORT = 24
DESCRIPTORS_SPARE = 300

# Memory counts as settled when it has not changed for so long; the wait ends at the maximum.
STEADY_SECONDS = 2.0
SETTLE_SECONDS_MAX = 15.0
SAMPLE_SECONDS = 0.25


@dataclasses.dataclass
class IdleResult:
    """Memory in bytes. `before` is the fresh process, `after_small` and `after_large` the settled
    memory with `clients` idle clients after their first and their second question."""

    clients: int = 0
    before: int | None = None
    after_small: int | None = None
    after_large: int | None = None
    failure: str | None = None

    def bytes_a_client(self, stage):
        """Growth for each idle client after `stage`, "after_small" or "after_large"."""
        after = getattr(self, stage)
        return None if after is None or not self.clients else (after - self.before) / self.clients


def run(fleet, names):
    """Name → IdleResult for direct Redis and each of `names`. Failures are kept in the result."""
    resp.preload(fleet.redis.port, 1, LARGE_BYTES)
    with resp.Client(fleet.redis.port) as client:
        client.call("SET", "small", resp.value_of(0, SMALL_BYTES))
    results = {}
    for name in ["direct", *names]:
        progress.show(f"idle: {name}")
        results[name] = result = IdleResult()
        try:
            _measure(fleet, name, result)
        except (servers.StartError, measure.RunError, resp.ReplyError, OSError) as error:
            result.failure = str(error)
            progress.warn(f"idle: {name}: {error}")
    progress.show("")
    return results


def clients_possible(name):
    """CLIENTS, or as many as the limit of open files allows this target. Its proxy and this script
    hold one descriptor a client, haproxy two, and Redis one for each of haproxy's."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - DESCRIPTORS_SPARE
    return min(CLIENTS, peers.haproxy_clients_max() if name == "haproxy" else limit)


def _measure(fleet, name, result):
    server = fleet.redis if name == "direct" else fleet.fresh(name)
    with contextlib.ExitStack() as stack:
        if server is not fleet.redis:
            stack.callback(server.stop)
        result.before = _settled_memory(server.pid)
        count = clients_possible(name)
        if count < CLIENTS:
            progress.warn(f"idle: {name}: the limit of open files allows {count} clients only")
        sockets = stack.enter_context(_open_clients(server.port, count))
        result.clients = count
        result.after_small = _settled_memory(server.pid)
        question = resp.command("GET", resp.key_of(0))
        expected = _bulk(resp.value_of(0, LARGE_BYTES))
        for client in sockets:
            _ask(client, question, expected)
        result.after_large = _settled_memory(server.pid)


@contextlib.contextmanager
def _open_clients(port, count):
    """Opens `count` clients, each of which asks once; closes them all at the end."""
    question = resp.command("GET", "small")
    expected = _bulk(resp.value_of(0, SMALL_BYTES))
    sockets = []
    try:
        for index in range(count):
            client = socket.socket()
            sockets.append(client)
            client.settimeout(10.0)
            client.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            client.bind((SOURCES[index % len(SOURCES)], 0))
            client.connect(("127.0.0.1", port))
            try:
                _ask(client, question, expected)
            except (OSError, resp.ReplyError) as error:
                raise resp.ReplyError(f"client {index + 1} of {count}: {error}") from error
        yield sockets
    finally:
        for client in sockets:
            client.close()


def _ask(client, question, expected):
    """Sends one question and reads exactly the expected bytes. Raises ReplyError on any other."""
    client.sendall(question)
    answer = bytearray()
    while len(answer) < len(expected):
        part = client.recv(len(expected) - len(answer))
        if not part:
            raise resp.ReplyError(f"closed after {bytes(answer[:60])!r}")
        answer += part
        if not expected.startswith(answer[:1]):
            raise resp.ReplyError(f"answered {bytes(answer[:60])!r}")
    if answer != expected:
        raise resp.ReplyError("a reply differs from the stored value")


def _bulk(value):
    return b"$%d\r\n%s\r\n" % (len(value), value)


def _settled_memory(pid):
    """Resident memory once it has stopped changing: buffers may be given back after a while."""
    start = steady_since = time.monotonic()
    last = measure.memory_bytes(pid)
    while time.monotonic() - start < SETTLE_SECONDS_MAX:
        time.sleep(SAMPLE_SECONDS)
        memory = measure.memory_bytes(pid)
        if memory != last:
            last, steady_since = memory, time.monotonic()
        if time.monotonic() - steady_since >= STEADY_SECONDS:
            break
    return last
