"""Compares what a file of the suite found directly with what it found through Breakwater.

Owns the counting: which tests are asked for, which are passed at which try, the percentage, and how
the reasons of reasons.toml meet the differences. Never runs anything and never prints. Only a test
that is [ok] directly is asked for; a test that a run did not reach has failed in it. A reason
explains a difference and never makes it one less.
"""

import dataclasses
import tomllib

import suite

BAR_PERCENT = 98.0


class ReasonsError(Exception):
    """reasons.toml is not what it should be."""


@dataclasses.dataclass
class Comparison:
    """One file: the run against Redis itself, and the tries through Breakwater in their order."""

    unit: str
    direct: object
    tries: list = dataclasses.field(default_factory=list)

    @property
    def asked(self):
        """The tests that are [ok] directly."""
        return self.direct.passed

    @property
    def passed(self):
        """Those of them that are [ok] through Breakwater, at any try."""
        return self.asked & set().union(*(run.passed for run in self.tries))

    @property
    def repaired(self):
        """Those of the passed that failed at another try; not those that a try did not reach."""
        return self.passed & set().union(*(run.failed for run in self.tries))

    @property
    def differences(self):
        """Those of the asked that are not passed."""
        return self.asked - self.passed

    @property
    def stallers(self):
        """Names of tests in which a try hung. A repetition leaves out all tests of such a name, to
        reach what comes after."""
        hung = {run.stalled_in for run in self.tries}
        return {suite.name_of(test) for test in hung & self.differences}

    def error_of(self, name):
        """What the first try that has something to say about a difference says."""
        for run in self.tries:
            if name in run.failed:
                return run.failed[name]
            if name == run.stalled_in:
                return "no reply: the suite waited in vain"
        ends = [run.ended_early for run in self.tries if run.ended_early]
        broken = [text for run in self.tries for text in run.broken]
        return "not reached: " + next(iter(ends + broken), "the file left it out")


@dataclasses.dataclass(frozen=True)
class Difference:
    """A test that is [ok] directly and not through Breakwater. `reason` None: nobody says why."""

    unit: str
    name: str
    error: str
    reason: str | None


def wants_a_try(comparison, reasons):
    """Is there something that another run could still find? A difference that has a reason is not
    expected to go away."""
    return any(reason_for(reasons, comparison.unit, name) is None or not comparison.tries
               for name in comparison.differences)


def differences(comparisons, reasons):
    """All differences, by file in the order given and by name."""
    return [Difference(c.unit, name, c.error_of(name), reason_for(reasons, c.unit, name))
            for c in comparisons for name in sorted(c.differences)]


def reason_for(reasons, unit, name):
    """A reason for `name` holds for each test of that name, one for `name @2` for the second."""
    names = (name, suite.name_of(name))
    return next((reasons[key] for n in names if (key := f"{unit}: {n}") in reasons), None)


def stale_reasons(comparisons, reasons):
    """Reasons for what is no difference any more, among the files that were compared."""
    units = {c.unit for c in comparisons}
    in_use = {f"{c.unit}: {name}" for c in comparisons for name in c.differences}
    in_use |= {suite.name_of(key) for key in in_use}
    return sorted(key for key in reasons if key.split(": ", 1)[0] in units and key not in in_use)


def percent(passed, asked):
    """Of a hundred tests asked for, how many are passed; None where none is asked for."""
    return 100.0 * passed / asked if asked else None


def total_percent(comparisons):
    """The figure of the bar: over all tests, not over files."""
    return percent(sum(len(c.passed) for c in comparisons), sum(len(c.asked) for c in comparisons))


def holds(comparisons):
    """Is the bar met? Not by tests that nobody saw: a file that ends early directly asks for too
    little."""
    share = total_percent(comparisons)
    is_whole = all(c.direct.ended_early is None for c in comparisons)
    return is_whole and share is not None and share >= BAR_PERCENT


def read_reasons(path):
    """reasons.toml as a dictionary of `file: test` to a sentence. Raises ReasonsError."""
    try:
        reasons = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ReasonsError(f"{path.name}: {error}") from error
    for key, reason in reasons.items():
        if ": " not in key:
            raise ReasonsError(f"{path.name}: `{key}` is not of the form `file: test`")
        if not isinstance(reason, str) or not reason.endswith(".") or "\n" in reason:
            raise ReasonsError(f"{path.name}: the reason of `{key}` is not one sentence")
    return reasons
