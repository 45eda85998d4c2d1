"""`python3 tests/tcl`: Redis's own test-suite against Redis, then through Breakwater.

Owns the command line and the order of a run: for each file of the suite a run directly, then tries
through Breakwater until each test that is [ok] directly has been [ok] once, at most `--tries` of
them. README.md explains the figures. Servers, suite and clients end with this script, also after
Ctrl-C or SIGTERM.
"""

import os
import sys
from pathlib import Path

# The folder belongs to a source tree; a cache of compiled scripts has no place in it.
sys.dont_write_bytecode = True

PROJECT = Path(__file__).resolve().parents[2]
# Starting servers, asking them and showing progress: as in the comparison of speed.
sys.path.append(str(PROJECT / "benches" / "load"))

import argparse  # noqa: E402
import functools  # noqa: E402
import signal  # noqa: E402
import subprocess  # noqa: E402

import progress  # noqa: E402
import servers  # noqa: E402
import source  # noqa: E402
import stage  # noqa: E402
import suite  # noqa: E402
import tables  # noqa: E402
import verdicts  # noqa: E402

SOURCE_VARIABLE = "BREAKWATER_REDIS_SOURCE"
TESTED_VERSION = f"v={source.TAG} "


def main():
    # Each row appears when its file is done, also in a file or a pipe.
    sys.stdout.reconfigure(line_buffering=True)
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    reasons = verdicts.read_reasons(Path(__file__).resolve().with_name("reasons.toml"))
    given = os.environ.get(SOURCE_VARIABLE)
    folder = source.obtain(PROJECT / "target" / "tcl", given and Path(given).resolve())
    units = _chosen_units(suite.units(folder), arguments.file)
    if arguments.list:
        print("\n".join(units))
        return 0
    servers.raise_file_limit()
    lines = _versions(arguments)
    tables.heading(lines)
    comparisons = []
    for number, unit in enumerate(units, 1):
        label = f"{number}/{len(units)} {unit}"
        comparisons.append(_compare(folder, unit, arguments, label, reasons))
        tables.row(comparisons[-1])
    return _report(arguments, lines, comparisons, reasons)


def _compare(folder, unit, arguments, label, reasons):
    """Runs one file: directly, then through Breakwater as often as it takes and is allowed."""
    run = functools.partial(_run_once, folder, unit, arguments)
    comparison = verdicts.Comparison(unit, run(f"{label} directly", None, ()))
    tries = 0 if arguments.only_direct else arguments.tries
    while len(comparison.tries) < tries and verdicts.wants_a_try(comparison, reasons):
        words = f"{label} through Breakwater, try {len(comparison.tries) + 1}"
        comparison.tries.append(run(words, arguments.breakwater, sorted(comparison.stallers)))
    progress.show("")
    return comparison


def _run_once(folder, unit, arguments, label, breakwater, skipped):
    limits = suite.Limits(arguments.stall, arguments.limit)
    options = ["--tags", arguments.tags] if arguments.tags else []
    with stage.Stage(breakwater, arguments.breakwater_args) as servers_up:
        found = suite.run(
            folder, unit, servers_up.port, limits, servers_up.log, options, skipped,
            lambda seconds: progress.show(f"{label} ({seconds:.0f} s)"))
        for death in servers_up.deaths():
            progress.warn(f"{label}: {death}")
            found.broken.append(death)
    return found


def _report(arguments, lines, comparisons, reasons):
    """Prints what follows the rows; returns the exit status."""
    found = [] if arguments.only_direct else verdicts.differences(comparisons, reasons)
    if arguments.json:
        tables.write_json(arguments.json, lines, comparisons, found)
    if arguments.only_direct:
        tables.baseline(comparisons)
        return 0
    tables.total(comparisons)
    tables.baseline(comparisons)
    tables.repaired_list(comparisons)
    tables.difference_list(found)
    tables.stale_list(verdicts.stale_reasons(comparisons, reasons))
    return 0 if tables.verdict(comparisons) else 1


def _arguments():
    parser = argparse.ArgumentParser(
        prog="python3 tests/tcl", description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--file", action="append", metavar="UNIT", help="only this file: unit/multi (repeatable)")
    add("--list", action="store_true", help="print the names of the files and stop")
    add("--tries", type=int, default=3, help="runs of a file through Breakwater, at most")
    add("--tags", default="", metavar="TAGS", help="the suite's --tags, for both sides: '-slow'")
    add("--stall", type=int, default=120, metavar="SECONDS",
        help="a file ends when no test begins or ends for so long")
    add("--limit", type=int, default=900, metavar="SECONDS", help="a file may take so long in all")
    add("--only-direct", action="store_true", help="run against Redis only")
    add("--breakwater", type=Path, default=PROJECT / "target" / "release" / "breakwater",
        metavar="FILE", help="the binary to test")
    add("--breakwater-args", default="--profile open", metavar="ARGS", help="more arguments for `breakwater run`")
    add("--json", type=Path, metavar="FILE", help="write everything there too")
    arguments = parser.parse_args()
    if min(arguments.tries, arguments.stall, arguments.limit) < 1:
        parser.error("--tries, --stall and --limit must be positive")
    if not (arguments.only_direct or arguments.list or arguments.breakwater.is_file()):
        parser.error(f"{arguments.breakwater} does not exist; `cargo build --release` makes it")
    arguments.breakwater = arguments.breakwater.resolve()
    return arguments


def _chosen_units(known, wanted):
    unknown = set(wanted or ()) - set(known)
    if unknown:
        sys.exit(f"unknown file {', '.join(sorted(unknown))}; --list prints all names")
    return [unit for unit in known if not wanted or unit in wanted]


def _versions(arguments):
    """One line a participant, and a loud one if the tests are not those of this Redis."""
    redis = _version_line(["redis-server", "--version"])
    if TESTED_VERSION not in redis:
        progress.warn(f"the tests are those of {source.TAG}, the server is another: {redis}")
    lines = [f"tests of Redis {source.TAG}", redis]
    if not arguments.only_direct:
        lines.append(_version_line([str(arguments.breakwater), "--version"]))
    return lines


def _version_line(argv):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        progress.warn("interrupted; every server is stopped")
        sys.exit(130)
    except source.SourceError as error:
        sys.exit(f"{error}\nWith {SOURCE_VARIABLE}=DIRECTORY the source of Redis {source.TAG} is "
                 "taken from there.")
    except (suite.SuiteError, verdicts.ReasonsError, servers.StartError) as error:
        sys.exit(str(error))
