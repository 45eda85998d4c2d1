"""Runs one file of Redis's test-suite against a server that is up, and reads what it printed.

Owns the command line of the suite, its end, and the grammar of its output. Never starts a server
and never judges: what a run found is data, compared by `verdicts.py`. Two things surprise. A name
may stand for several tests of a file, so each further one is called `name @2`. And `--durable` is
always given: without it the first exception ends the file and hides whatever follows.
"""

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

WRAPPER = Path(__file__).resolve().with_name("line_buffered.tcl")
# runtest looks for the same, and the suite does not run with Tcl 9.
INTERPRETERS = ("tclsh8.7", "tclsh8.6", "tclsh8.5", "tclsh")
POLL_SECONDS = 0.25
# Longer than the suite needs to report a stall by itself once its clock says so.
GRACE_SECONDS = 5

# Tests that fail against any external server and spoil those behind them, by file. This one wants
# the server's process id, has no tag that says so, and leaves the configuration changed.
SPOILERS = {"unit/type/set": ["SRANDMEMBER with a dict containing long chain"]}

# The word of an event, and what it is about. Whatever follows without such a start belongs to it.
EVENT = re.compile(r"\[(ok|err|exception|skip|ignore|ready|TIMEOUT|\d+/\d+ done)\]: ?(.*)")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
PASSED = re.compile(r"(.*) \(\d+ ms\)")
FAILED = re.compile(r"(.*) in tests/\S+\.tcl")
STALLED_IN = re.compile(r"\S+ => \(IN PROGRESS\) (.*)")
# Names of the suite's own end in `#2`; none ends like this.
NUMBER = re.compile(r" @\d+$")
SUMMARY = "                   The End"


class SuiteError(Exception):
    """The suite cannot be run on this machine."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """`stall`: seconds without any test ending or beginning; `file`: seconds for a whole file."""

    stall: int
    file: int


@dataclasses.dataclass
class Run:
    """What one run of a file found.

    `failed` maps a test to its error text. `broken` are errors outside of any test: what a file
    does between its tests. `ended_early` says why later tests were not reached, None after a whole
    run; `stalled_in` is the test that the suite was in when it gave up waiting, where known.
    """

    passed: set = dataclasses.field(default_factory=set)
    failed: dict = dataclasses.field(default_factory=dict)
    broken: list = dataclasses.field(default_factory=list)
    ignored: int = 0
    ended_early: str | None = None
    stalled_in: str | None = None
    seconds: float = 0.0


def interpreter():
    """The path of a tclsh. Raises SuiteError."""
    found = next(filter(None, map(shutil.which, INTERPRETERS)), None)
    if found is None:
        raise SuiteError("tclsh is not installed (Debian: apt-get install tcl)")
    return found


def units(folder):
    """All files that the suite runs by itself, in its order, as in `unit/type/list`."""
    done = subprocess.run([interpreter(), str(WRAPPER), "--list-tests"], cwd=folder, text=True,
                          capture_output=True, check=False, timeout=60)
    if done.returncode != 0:
        raise SuiteError(f"the suite does not list its files: {done.stderr.strip()}")
    return done.stdout.split()


def run(folder, unit, port, limits, log, options=(), skipped=(), on_wait=lambda seconds: None):
    """Runs `unit` against 127.0.0.1:`port`, its output in the file `log`, and returns a Run.

    `skipped` are tests to leave out; `on_wait` is called a few times a second."""
    argv = [interpreter(), str(WRAPPER), "--host", "127.0.0.1", "--port", str(port), "--durable",
            "--single", unit, "--timeout", str(limits.stall), *options]
    for name in [*SPOILERS.get(unit, ()), *skipped]:
        argv += ["--skiptest", name]
    started = time.monotonic()
    # A terminal's name would colour the words that are looked for.
    environment = {**os.environ, "TERM": "dumb"}
    with open(log, "wb") as output:
        process = subprocess.Popen(
            argv, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, process_group=0)
        try:
            while process.poll() is None and time.monotonic() - started < limits.file:
                on_wait(time.monotonic() - started)
                time.sleep(POLL_SECONDS)
            in_time = process.poll() is not None
        finally:
            _stop_all(process)
    found = read(log.read_text(errors="replace"))
    found.seconds = time.monotonic() - started
    if not in_time:
        found.ended_early = f"not done after {limits.file} s"
    return found


def read(text):
    """What the suite's output says, as a Run. Output that ends before the file is done says so."""
    found, seen, done = Run(), {}, False
    for word, lines in _events(text):
        if word == "ok":
            passed = PASSED.fullmatch(lines[0])
            found.passed.add(_numbered(passed[1] if passed else lines[0], seen))
        elif word == "err":
            _note_error(found, lines, seen)
        elif word == "ignore":
            found.ignored += 1
        elif word == "exception":
            found.ended_early = "exception: " + error_text(lines)
        elif word == "TIMEOUT":
            stalled = next(filter(None, map(STALLED_IN.match, lines)), None)
            found.stalled_in = stalled and _numbered(stalled[1], seen)
            found.ended_early = f"no progress in: {found.stalled_in or 'an unknown test'}"
        elif word.endswith("done"):
            done = True
    if not done and found.ended_early is None:
        words = text.strip().splitlines()[-1:] or ["no output"]
        found.ended_early = f"the suite ended before the file: {words[0]}"
    return found


def name_of(test):
    """The name that the suite knows a test by: without the number it was given here."""
    return NUMBER.sub("", test)


def error_text(lines):
    """An error as the suite prints it, without the message's torn repetition.

    Of an exception it prints first the message without its first ten characters, which only an
    assertion's prefix deserves, and then the whole of it with the Tcl stack."""
    if len(lines) > 1 and lines[1].endswith(lines[0]):
        lines = lines[1:]
    return "\n".join(lines).rstrip()


def _note_error(found, lines, seen):
    heading = FAILED.fullmatch(lines[0])
    if heading:
        found.failed[_numbered(heading[1], seen)] = error_text(lines[1:])
    else:
        found.broken.append(error_text(lines))


def _numbered(name, seen):
    seen[name] = seen.get(name, 0) + 1
    return name if seen[name] == 1 else f"{name} @{seen[name]}"


def _events(text):
    """Pairs of an event's word and its lines, up to the summary, which repeats the errors."""
    word, lines = None, []
    for line in COLOUR.sub("", text).splitlines():
        if line == SUMMARY:
            break
        event = EVENT.fullmatch(line)
        if event:
            if word:
                yield word, lines
            word, lines = event[1], [event[2]]
        else:
            lines.append(line)
    if word:
        yield word, lines


def _stop_all(process):
    """Ends the suite and the clients that it has started; they share its process group."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
