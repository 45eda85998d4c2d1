"""A blocking RESP2 client of a few lines, and the data set of a cell.

Owns: sending a command, reading one reply, loading keys, and the value that each key must carry.
Never used for load: redis-benchmark makes the load, this only prepares and verifies it.
Keys are named as redis-benchmark names them (`key:` and twelve digits), so that every GET of a run
finds a value of the promised size. Values are pseudo-random bytes made from the key's number: a
reply that belongs to another key, or that lost or repeated a byte, never compares equal.
"""

import functools
import random
import socket

PRELOAD_BATCH_BYTES = 1 << 20


class ReplyError(Exception):
    """An error reply (`-…`), a connection that ended early, or bytes that are not RESP2."""


class Client:
    """One connection. `timeout` bounds every send and receive, in seconds."""

    def __init__(self, port, timeout=10.0):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = self.socket.makefile("rb", buffering=1 << 16)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.reader.close()
        self.socket.close()

    def call(self, *arguments):
        """Sends a command and returns its reply: bytes, int, None or a list; or ReplyError."""
        self.socket.sendall(command(*arguments))
        return self.reply()

    def reply(self):
        """Reads one reply."""
        line = self.reader.readline()
        if not line.endswith(b"\r\n"):
            raise ReplyError("the connection was closed in the middle of a reply")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest
        if kind == b"-":
            raise ReplyError(rest.decode("utf-8", "replace"))
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return self._bulk(int(rest))
        if kind == b"*":
            return None if int(rest) < 0 else [self.reply() for _ in range(int(rest))]
        raise ReplyError(f"not RESP2: {line[:40]!r}")

    def _bulk(self, length):
        if length < 0:
            return None
        body = self.reader.read(length + 2)
        if len(body) != length + 2 or not body.endswith(b"\r\n"):
            raise ReplyError("the connection was closed in the middle of a bulk string")
        return body[:-2]


def command(*arguments):
    """The multibulk encoding of a command. Arguments are str, bytes or int."""
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        raw = argument if isinstance(argument, bytes) else str(argument).encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(raw), raw))
    return b"".join(parts)


def key_of(index):
    """The name redis-benchmark gives to number `index` when it is run with -r."""
    return f"key:{index:012d}"


@functools.lru_cache(maxsize=256)
def value_of(index, size):
    """The value that key number `index` carries in a cell of `size` bytes. Cached: 1 MiB values are
    asked for again and again by the slow reader's check of every byte."""
    return random.Random(index).randbytes(size)


def preload(port, keys, size):
    """Empties the server at `port` and stores `keys` values of `size` bytes, in batches."""
    empty(port)
    store(port, keys, size)


def empty(port):
    """Removes all keys. Not to be asked of a proxy, whose policy may forbid it."""
    with Client(port) as client:
        client.call("FLUSHALL")


def store(port, keys, size):
    """Stores `keys` values of `size` bytes, in batches."""
    with Client(port) as client:
        batch, batch_bytes = [], 0
        for index in range(keys):
            batch.append(command("SET", key_of(index), value_of(index, size)))
            batch_bytes += len(batch[-1])
            if batch_bytes >= PRELOAD_BATCH_BYTES or index == keys - 1:
                client.socket.sendall(b"".join(batch))
                for _ in batch:
                    client.reply()
                batch, batch_bytes = [], 0


def verify(port, keys, size):
    """Reads the first and the last key through `port`. Raises ReplyError if a byte differs."""
    with Client(port) as client:
        for index in (0, keys - 1):
            answer = client.call("GET", key_of(index))
            if answer != value_of(index, size):
                got = "nothing" if answer is None else f"{len(answer)} bytes"
                raise ReplyError(f"GET {key_of(index)} gave {got}, not the {size} bytes stored")


def verify_many(port, count, size):
    """Reads the first `count` keys through `port` with one MGET. Raises ReplyError if a byte
    differs."""
    with Client(port) as client:
        answers = client.call("MGET", *[key_of(index) for index in range(count)])
    wrong = [i for i, answer in enumerate(answers) if answer != value_of(i, size)]
    if wrong or len(answers) != count:
        raise ReplyError(f"MGET of {count} keys gave {len(answers)} values, {len(wrong)} wrong")


def calls_of(port):
    """How often the server at `port` has executed the commands of the loads: the exact number of
    those that arrived, whatever the load generator believes to have sent."""
    with Client(port) as client:
        info = client.call("INFO", "commandstats").decode()
    heads = tuple(f"cmdstat_{verb}:" for verb in ("get", "set", "mget"))
    lines = [line for line in info.splitlines() if line.startswith(heads)]
    return sum(int(line.split("calls=")[1].split(",")[0]) for line in lines)
