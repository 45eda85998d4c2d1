"""Runs one cell: loads the data, then measures every target in interleaved rounds.

Owns the order of runs. In each round every target runs once, and each round starts one target
further, so that slow drifts of the machine hit all of them alike and nobody always runs after the
same neighbour. Ratios are taken within a round and their median over the rounds, never median by
median: what disturbs a whole round cancels out. Never prints results; progress goes to stderr.
A target that fails twice in a cell is dropped from that cell, with its reason.
"""

import dataclasses
import statistics

import measure
import progress
import resp

FAILURES_MAX = 2
SYSTEM_CALL_RUNS = 3


@dataclasses.dataclass
class Outcome:
    """What a cell measured for one target. `samples` has one entry a round, None where a run
    failed. `system_calls` and `memory_bytes` are None where they could not be had."""

    samples: list = dataclasses.field(default_factory=list)
    system_calls: float | None = None
    memory_bytes: int | None = None
    failures: list = dataclasses.field(default_factory=list)

    def median(self, field):
        """The median of a Sample's field over the rounds; None if there is none."""
        values = [getattr(s, field) for s in self.samples if s is not None]
        values = [value for value in values if value is not None]
        return statistics.median(values) if values else None


@dataclasses.dataclass
class CellResult:
    """All outcomes of a cell by target name."""

    cell: object
    outcomes: dict

    def ratios(self, field, over, under):
        """over ÷ under in each round in which both have that field; possibly empty."""
        pairs = zip(self._samples(over), self._samples(under), strict=False)
        values = [(getattr(a, field), getattr(b, field)) for a, b in pairs if a and b]
        return [a / b for a, b in values if a is not None and b]

    def _samples(self, name):
        return self.outcomes[name].samples if name in self.outcomes else []


def run_cell(fleet, cell, rounds, seconds, counts_system_calls):
    """Measures `cell` for every target of `fleet` over `rounds` rounds of about `seconds` a run."""
    load = cell.load
    fleet.preload(load)
    result = CellResult(cell, {name: Outcome() for name in fleet.targets()})
    requests = {}
    for name, target in fleet.targets().items():
        progress.show(f"{cell.name}: calibrating {name}")
        count = _attempt(result.outcomes[name], lambda: _prepare(load, target, seconds))
        if count is None:
            # Whoever cannot serve the first requests of a cell would spoil its rounds as well.
            continue
        requests[name] = count
    for turn in range(rounds):
        for name in _rotated(list(requests), turn):
            progress.show(f"{cell.name}: round {turn + 1}/{rounds} {name}")
            _one_round(fleet, result.outcomes[name], load, requests[name], name)
    for name in requests:
        target, outcome = fleet.targets().get(name), result.outcomes[name]
        if target is not None and any(outcome.samples):
            outcome.memory_bytes = measure.memory_bytes(target.pid)
            redis = fleet.behind(name)
            if counts_system_calls and target is not redis:
                progress.show(f"{cell.name}: counting system calls of {name}")
                outcome.system_calls = _system_calls(outcome, load, requests[name], target, redis)
    progress.show("")
    return result


def _prepare(load, target, seconds):
    """Makes sure that the target's replies carry the stored values, and finds its pace."""
    if load.verb == "GET":
        resp.verify(target.port, load.keys, load.size)
    elif load.verb == "MGET":
        resp.verify_many(target.port, load.width, load.size)
    return measure.calibrate(load, target.port, seconds)


def _one_round(fleet, outcome, load, requests, name):
    """Appends one sample, or None for a target that died or has failed too often in this cell."""
    target = fleet.targets().get(name)
    if target is None or len(outcome.failures) >= FAILURES_MAX:
        outcome.samples.append(None)
        return
    outcome.samples.append(
        _attempt(outcome, lambda: measure.sample(load, requests, target, fleet.behind(name))))


def _system_calls(outcome, load, requests, target, redis):
    counts = [_attempt(outcome, lambda: measure.system_calls_a_request(
        load, requests, target, redis)) for _ in range(SYSTEM_CALL_RUNS)]
    counts = [count for count in counts if count is not None]
    return statistics.median(counts) if counts else None


def _attempt(outcome, run):
    """Returns what `run` returns; or None, and the reason is kept in the outcome and printed."""
    try:
        return run()
    except (measure.RunError, resp.ReplyError, OSError) as error:
        outcome.failures.append(str(error))
        progress.warn(f"failed: {error}")
        return None


def _rotated(names, turn):
    shift = turn % len(names) if names else 0
    return names[shift:] + names[:shift]

