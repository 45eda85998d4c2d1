"""The cells of the comparison: which load, and which of them belong to the default set.

Owns names and shapes only. The default set is the cells that the bars speak of, plus one for 1 KiB
values; `full()` adds the cross product of pipelines, clients and sizes, and some SETs.
Two cells are no redis-benchmark load: `idle` (10,000 idle clients) and `slow-reader`. Those of
`cluster()` run before three primaries, beside the same binary before one server.
Shapes whose replies in flight would not fit a small machine's memory are left out of the cross
product by a named bound, since a swapping machine measures its disk; `left_out()` says which.
"""

import dataclasses

import measure

PIPELINES = (1, 16, 64)
CLIENTS = (1, 50, 1000)
SIZES = (64, 1 << 10, 16 << 10, 1 << 20)
DATA_SET_BYTES_MAX = 64 << 20
KEYS_MAX = 10_000
REPLIES_IN_FLIGHT_BYTES_MAX = 256 << 20

IDLE = "idle"
SLOW_READER = "slow-reader"
# What the binary under test is called where it stands before one server, in the cells of a cluster.
STANDALONE = "before-one"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A named load. `note` says in the table's title what it is for."""

    name: str
    load: measure.Load
    note: str = ""

    def title(self):
        load = self.load
        clients = "1 client" if load.clients == 1 else f"{load.clients} clients"
        verb = load.verb if load.width == 1 else f"{load.verb} of {load.width}"
        text = f"{verb} {size_text(load.size)}, P={load.pipeline}, {clients}"
        return f"{self.name}: {text}" + (f" ({self.note})" if self.note else "")


def default():
    """The load cells that a run without options measures, in their order."""
    return [
        _cell("p1", 1, 50, 64),
        _cell("p16", 16, 50, 64),
        _cell("p64", 64, 50, 64),
        _cell("v1k", 1, 50, 1 << 10),
        _cell("v16k", 1, 50, 16 << 10),
        _cell("v1m", 1, 10, 1 << 20, note="latency: to the first bytes of the reply"),
        _cell("c1", 1, 1, 64, note="latency: of a blocking client, to the last byte"),
        _cell("c1000", 1, 1000, 64),
    ]


def cluster():
    """The load cells before a Redis Cluster: the keys of all loads lie in all its slots."""
    gets = [_cell(f"cluster-p{pipeline}", pipeline, 50, 64) for pipeline in PIPELINES]
    mgets = [Cell(f"cluster-mget{width}", measure.Load("MGET", 1, 50, 64, KEYS_MAX, width))
             for width in (10, 100)]
    return gets + mgets


def full():
    """The default set, the rest of the cross product, and SETs of two sizes at 50 clients."""
    chosen = default()
    known = {cell.load for cell in chosen}
    for name, shape in _cross_product():
        cell = _cell(name, *shape)
        if cell.load not in known and _in_flight_bytes(shape) <= REPLIES_IN_FLIGHT_BYTES_MAX:
            chosen.append(cell)
    chosen += [_cell(f"set-p{pipeline}-{size_text(size, '')}", pipeline, 50, size, verb="SET")
               for pipeline in PIPELINES for size in (64, 16 << 10)]
    return chosen


def left_out():
    """Names of the cross product's cells that `full()` does not hold because of their memory."""
    return [name for name, shape in _cross_product()
            if _in_flight_bytes(shape) > REPLIES_IN_FLIGHT_BYTES_MAX]


def size_text(size, space=" "):
    """64 → "64 B", 16384 → "16 KiB"."""
    for unit, shift in (("MiB", 20), ("KiB", 10)):
        if size >= 1 << shift:
            return f"{size >> shift}{space}{unit}"
    return f"{size}{space}B"


def _cross_product():
    for pipeline in PIPELINES:
        for clients in CLIENTS:
            for size in SIZES:
                yield f"p{pipeline}-c{clients}-{size_text(size, '')}", (pipeline, clients, size)


def _in_flight_bytes(shape):
    pipeline, clients, size = shape
    return pipeline * clients * size


def _cell(name, pipeline, clients, size, verb="GET", note=""):
    keys = max(1, min(KEYS_MAX, DATA_SET_BYTES_MAX // size))
    return Cell(name, measure.Load(verb, pipeline, clients, size, keys), note)
