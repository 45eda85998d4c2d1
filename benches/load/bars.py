"""The bars: what Breakwater promises about its cost, each with its bound and its verdict.

Owns the list and the judging. Never measures and never prints. A bar whose cell or whose peer is
missing is `not measured`, with the reason; it is never taken as held.
CPU and throughput bars are medians of ratios within a round (`rounds.py` says why); beside each CPU
ratio stands the A/A ratio, that of two instances of the same proxy, which shows the noise: a margin
smaller than its distance from 1.00 says nothing.
"""

import dataclasses
import statistics
from collections.abc import Callable

import cells
import slow_reader

# How the sentence "the others' GETs keep their latency" is read: the median may grow by a half, the
# 99th percentile may double and half a millisecond more, the time of a wake-up on a busy core.
OTHERS_P50_GROWTH_MAX = 1.5
OTHERS_P99_GROWTH_MAX = 2.0
OTHERS_P99_SLACK_MS = 0.5

KIB = 1 << 10
MIB = 1 << 20


@dataclasses.dataclass
class Results:
    """Everything a run measured. `subject` is the proxy that the bars are about; `loads` maps a
    cell's name to its CellResult; `idle` and `slow_reader` map a target's name to its result."""

    subject: str
    slow_reader_bytes_max: int
    loads: dict = dataclasses.field(default_factory=dict)
    idle: dict = dataclasses.field(default_factory=dict)
    slow_reader: dict = dataclasses.field(default_factory=dict)
    missing: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Measured:
    """A bar's figure, and what a reader should know beside it."""

    figure: float
    beside: str = ""


@dataclasses.dataclass(frozen=True)
class Bar:
    """`measure` gives a Measured or None from Results. `form` formats figure and bound alike."""

    cell: str
    text: str
    bound: float
    measure: Callable
    is_floor: bool = False
    form: str = "{:.3f}"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A judged bar as text. `holds` is None for what was not measured; `was_run` says whether its
    cell was run at all."""

    cell: str
    text: str
    bound: str
    measured: str
    holds: bool | None
    beside: str
    was_run: bool


def all_bars(slow_reader_bytes_max):
    """The bars in the order of the cells."""
    bars = [_below("p1", "system calls a request", 2.1, _system_calls("p1"))]
    for cell, nutcracker, envoy in (("p1", 1.00, 0.75), ("p16", 0.40, 0.30), ("p64", 0.20, 0.22)):
        bars += [_cpu_bar(cell, "nutcracker", nutcracker), _cpu_bar(cell, "envoy", envoy)]
    bars += [_cpu_bar("v16k", "nutcracker", 0.85), _cpu_bar("v1m", "nutcracker", 1.10)]
    bars += [Bar(cell, "requests/s ÷ direct Redis's", 1.0, _ratio(cell, "rps", "direct"), True)
             for cell in ("p16", "p64", "c1000")]
    lone = _ratio("c1", "p50_ms", "direct")
    bars.append(_below("c1", "median latency ÷ direct Redis's", 2.2, lone))
    for cell, bound in (("cluster-p1", 1.15), ("cluster-p16", 1.45), ("cluster-p64", 1.2)):
        bars.append(_below(cell, "CPU a request ÷ before one server", bound,
                           _cpu(cell, cells.STANDALONE)))
    bars += [_cpu_bar(cell, "envoy", 0.40) for cell in ("cluster-mget10", "cluster-mget100")]
    idle, slow = cells.IDLE, cells.SLOW_READER
    bars += [
        _below(idle, "resident memory without clients", 8 * MIB, _idle_memory, "bytes"),
        _below(idle, "memory an idle client", 2.5 * KIB, _idle_client("after_small"), "bytes"),
        _below(idle, "the same, after a 16 KiB value each", 2.5 * KIB, _idle_client("after_large"),
               "bytes"),
        _below(slow, "peak memory of a slow reader", slow_reader_bytes_max, _slow_cost, "bytes"),
        Bar(slow, "replies it got, every byte right", slow_reader.REQUESTS, _slow_verified, True,
            "{:.0f}"),
        _below(slow, "others' p50 ÷ before", OTHERS_P50_GROWTH_MAX, _others_p50),
        _below(slow, f"others' p99 − {OTHERS_P99_SLACK_MS} ms ÷ before", OTHERS_P99_GROWTH_MAX,
               _others_p99),
    ]
    return bars


def judge(results):
    """A Verdict for each bar, whether its cell was run or not."""
    return [_judge(bar, results) for bar in all_bars(results.slow_reader_bytes_max)]


def bytes_text(count):
    """1536 → "1.50 KiB"."""
    for unit, size in (("MiB", MIB), ("KiB", KIB)):
        if abs(count) >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f} B"


def median_of(ratios):
    """The median, or None of nothing."""
    return statistics.median(ratios) if ratios else None


def spread(ratios):
    """Median with the smallest and largest in brackets; "–" for none."""
    if not ratios:
        return "–"
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}…{max(ratios):.2f}]"


def _judge(bar, results):
    def text(figure):
        return bytes_text(figure) if bar.form == "bytes" else bar.form.format(figure)

    bound = ("≥ " if bar.is_floor else "≤ ") + text(bar.bound)
    ran = {**results.loads, cells.IDLE: results.idle, cells.SLOW_READER: results.slow_reader}
    was_run = bool(ran.get(bar.cell))
    measured = bar.measure(results)
    if measured is None:
        why = _why_not(results) if was_run else "the cell was not run"
        return Verdict(bar.cell, bar.text, bound, "–", None, why, was_run)
    figure = measured.figure
    holds = figure >= bar.bound if bar.is_floor else figure <= bar.bound
    return Verdict(bar.cell, bar.text, bound, text(figure), holds, measured.beside, was_run)


def _why_not(results):
    if results.subject in results.missing:
        return f"{results.subject} is missing"
    return "no figure: a peer or an instrument is missing, or the runs failed"


def _below(cell, text, bound, measure, form="{:.3f}"):
    return Bar(cell, text, bound, measure, False, form)


def _cpu_bar(cell, peer, bound):
    title = {"envoy": "Envoy"}.get(peer, peer)
    return _below(cell, f"CPU a request ÷ {title}'s", bound, _cpu(cell, peer))


def _system_calls(cell):
    def measured(results):
        outcome = _outcome(results, cell)
        count = outcome.system_calls if outcome else None
        return None if count is None else Measured(count)
    return measured


def _cpu(cell, peer):
    ratio = _ratio(cell, "proxy_cpu_us", peer)

    def measured(results):
        found = ratio(results)
        if found is None:
            return None
        subject = results.subject
        noise = results.loads[cell].ratios("proxy_cpu_us", subject, f"{subject}-aa")
        return Measured(found.figure, f"{found.beside}, A/A {spread(noise)}")
    return measured


def _ratio(cell, field, peer):
    def measured(results):
        if cell not in results.loads:
            return None
        ratios = results.loads[cell].ratios(field, results.subject, peer)
        if not ratios:
            return None
        lowest, highest = min(ratios), max(ratios)
        return Measured(statistics.median(ratios),
                        f"{len(ratios)} rounds {lowest:.2f}…{highest:.2f}")
    return measured


def _outcome(results, cell):
    return results.loads[cell].outcomes.get(results.subject) if cell in results.loads else None


def _idle_memory(results):
    found = results.idle.get(results.subject)
    return Measured(found.before) if found and found.before is not None else None


def _idle_client(stage):
    def measured(results):
        found = results.idle.get(results.subject)
        figure = found.bytes_a_client(stage) if found else None
        return None if figure is None else Measured(figure, f"{found.clients} clients")
    return measured


def _slow_cost(results):
    found = results.slow_reader.get(results.subject)
    cost = found.cost() if found else None
    return None if cost is None else Measured(cost)


def _slow_verified(results):
    found = results.slow_reader.get(results.subject)
    return Measured(found.verified, found.failure or "") if found else None


def _others_p50(results):
    phases = _others_phases(results)
    if phases is None:
        return None
    before, stalled = phases
    return Measured(stalled.p50_ms / before.p50_ms,
                    f"{before.p50_ms:.3f} → {stalled.p50_ms:.3f} ms")


def _others_p99(results):
    phases = _others_phases(results)
    if phases is None:
        return None
    before, stalled = phases
    beside = f"{before.p99_ms:.3f} → {stalled.p99_ms:.3f} ms, at most {stalled.max_ms:.1f} ms"
    return Measured((stalled.p99_ms - OTHERS_P99_SLACK_MS) / before.p99_ms, beside)


def _others_phases(results):
    found = results.slow_reader.get(results.subject)
    if found is None or not {"before", "stalled"} <= found.phases.keys():
        return None
    return found.phases["before"], found.phases["stalled"]
