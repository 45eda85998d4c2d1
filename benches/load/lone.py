"""The latency that one client sees who asks, waits and asks again.

Owns that client and its clock. redis-benchmark sorts latencies into steps of 8 µs, about half of
what a round trip to Redis takes here, so its median cannot tell 1.8 from 2.3 times direct; this one
measures each round trip in ns, from before the send to after the last byte of the reply.
Never used for throughput or CPU figures. A blocking socket, as most synchronous client libraries
have it: no event loop of the client's own stands between the reply and the clock.
"""

import gc
import random
import socket
import time

import resp

WARM_UP_REQUESTS = 200
KEYS_ASKED = 1_000


def latencies_ms(load, port, seconds):
    """Sorted latencies of GETs of random keys of `load` over about `seconds`, in ms."""
    keys = [random.randrange(load.keys) for _ in range(KEYS_ASKED)]
    questions = [resp.command("GET", resp.key_of(key)) for key in keys]
    length = len(b"$%d\r\n\r\n" % load.size) + load.size
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The kernel ends a receive that waits for longer. Python's own timeout would do so as well,
        # but at the price of a poll before every receive.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, b"\x05" + b"\0" * 15)
        buffer = memoryview(bytearray(length))
        for index in range(WARM_UP_REQUESTS):
            _round_trip(client, questions[index % KEYS_ASKED], buffer)
        gc.disable()
        try:
            return _ask_for(client, questions, buffer, seconds)
        finally:
            gc.enable()


def _ask_for(client, questions, buffer, seconds):
    latencies = []
    end = time.perf_counter_ns() + int(seconds * 1e9)
    while not latencies or time.perf_counter_ns() < end:
        for question in questions[:100]:
            latencies.append(_round_trip(client, question, buffer) / 1e6)
        questions = questions[100:] + questions[:100]
    return sorted(latencies)


def _round_trip(client, question, buffer):
    """One question and its whole reply; returns the time it took in ns."""
    missing = len(buffer)
    start = time.perf_counter_ns()
    client.send(question)
    received = client.recv_into(buffer)
    while 0 < received < missing:
        missing -= received
        received = client.recv_into(buffer[-missing:])
    elapsed = time.perf_counter_ns() - start
    if received == 0 or buffer[:1] != b"$":
        raise resp.ReplyError(f"not the reply expected: {bytes(buffer[:60])!r}")
    return elapsed
