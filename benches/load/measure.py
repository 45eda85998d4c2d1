"""What one run costs: load from redis-benchmark, CPU time, system calls and memory of a process.

Owns the reading of each number and nothing about what is compared with what. Never starts a server.
CPU time comes from the kernel's clock of the whole process (all threads, dead ones included, in
ns), the one that clock_getcpuclockid(3) names; ticks of 10 ms would be too coarse for a run of a
second. System calls are counted by a perf tracepoint in a run of its own, because counting costs
time too. Requests are counted by redis-server itself (`INFO commandstats`), not by who claims to
have sent them.
"""

import csv
import dataclasses
import subprocess
import time
from pathlib import Path

import lone

# Time for the last replies and the closing of the clients' sockets to be worked off and billed.
SETTLE_SECONDS = 0.02
RUN_SECONDS_MAX = 60.0
LONE_SECONDS = 0.5
CALIBRATE_RUNS_MAX = 6
CALIBRATE_SECONDS_MIN = 0.15


class RunError(Exception):
    """A run that did not end, lost requests or could not be read; it gives no numbers."""


@dataclasses.dataclass(frozen=True)
class Load:
    """One redis-benchmark run: its shape without a target. Sizes in bytes; `width` is the number of
    keys of each command, and more than one are asked for by MGET."""

    verb: str
    pipeline: int
    clients: int
    size: int
    keys: int
    width: int = 1

    def argv(self, port, requests):
        argv = ["redis-benchmark", "-h", "127.0.0.1", "-p", str(port),
                "-c", str(self.clients), "-P", str(self.pipeline), "-d", str(self.size),
                "-r", str(self.keys), "-n", str(requests), "--csv"]
        if self.width == 1:
            return [*argv, "-t", self.verb.lower()]
        # Each of them is replaced by a key of its own.
        return [*argv, self.verb, *["key:__rand_int__"] * self.width]

    def requests_of(self, arrived, sent):
        """How many requests `arrived` commands at Redis are: a proxy may cut one of many keys into
        several, but whoever answers without asking has not served it. Raises RunError."""
        if arrived < sent:
            raise RunError(f"only {arrived} of {sent} requests reached Redis")
        return arrived if self.width == 1 else sent

    def is_lone(self):
        """Whether there is never more than one request in flight, so that `lone.py` can time it."""
        return self.verb == "GET" and self.clients == 1 and self.pipeline == 1

    def requests_min(self):
        """Fewer than two pipelines a client would measure the start and not the running."""
        return max(2 * self.clients * self.pipeline, 100)


@dataclasses.dataclass
class Sample:
    """One run of one target. Latencies as redis-benchmark sees them, in steps of 8 µs, from the
    write of a pipeline to the first byte of its first reply; for a lone client see `lone.py`. CPU
    in µs a request; proxy_cpu_us is None for direct Redis."""

    requests: int
    rps: float
    p50_ms: float
    p99_ms: float
    proxy_cpu_us: float | None
    redis_cpu_us: float


def sample(load, requests, target, redis):
    """Runs `load` once against `target` (a Server) and returns a Sample. Raises RunError."""
    proxy = None if target is redis else target
    calls_before = redis.calls()
    time.sleep(SETTLE_SECONDS)
    cpu_before = [redis.cpu_ns(), proxy.cpu_ns() if proxy else 0]
    row = _benchmark(load.argv(target.port, requests))
    time.sleep(SETTLE_SECONDS)
    cpu = [redis.cpu_ns() - cpu_before[0], (proxy.cpu_ns() if proxy else 0) - cpu_before[1]]
    calls = load.requests_of(redis.calls() - calls_before, requests)
    p50_ms, p99_ms = float(row["p50_latency_ms"]), float(row["p99_latency_ms"])
    if load.is_lone():
        latencies = lone.latencies_ms(load, target.port, LONE_SECONDS)
        p50_ms, p99_ms = percentile(latencies, 50), percentile(latencies, 99)
    return Sample(
        requests=calls, rps=float(row["rps"]), p50_ms=p50_ms, p99_ms=p99_ms,
        proxy_cpu_us=cpu[1] / 1000 / calls if proxy else None, redis_cpu_us=cpu[0] / 1000 / calls)


def calibrate(load, port, seconds):
    """How many requests keep this target busy for about `seconds`. Warms it up as well."""
    requests = load.requests_min()
    for _ in range(CALIBRATE_RUNS_MAX):
        rate = max(float(_benchmark(load.argv(port, requests))["rps"]), 1.0)
        if requests / rate >= CALIBRATE_SECONDS_MIN:
            break
        # At most tenfold a step: the first runs are dominated by connecting and tell little.
        requests = int(min(requests * 10, max(requests * 2, rate * CALIBRATE_SECONDS_MIN * 1.5)))
    return max(load.requests_min(), int(rate * seconds))


def percentile(ordered, percent):
    """The smallest value of a sorted, non-empty list that `percent` per cent do not exceed."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def cpu_ns(pid):
    """CPU time used so far by all threads of the process, user and system together, in ns."""
    # CLOCK ids of processes are made from the complemented pid; 2 selects the scheduler's clock.
    return time.clock_gettime_ns((~pid << 3) | 2)


def memory_bytes(pid, field="VmRSS"):
    """A memory figure of /proc/PID/status: VmRSS is resident memory, VmHWM its peak since the start
    of the process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RunError(f"the kernel tells no {field} of process {pid}")


def can_count_system_calls():
    """Whether perf and its tracepoint may be used here (root, or a low perf_event_paranoid)."""
    try:
        return _perf(["true"], []) is not None
    except (OSError, subprocess.SubprocessError):
        return False


def system_calls_a_request(load, requests, target, redis):
    """System calls of `target` divided by the requests that reached Redis meanwhile, connecting and
    closing of the clients included. Raises RunError."""
    calls_before = redis.calls()
    counted = _perf(load.argv(target.port, requests), ["-p", str(target.pid)])
    calls = load.requests_of(redis.calls() - calls_before, requests)
    if counted is None:
        raise RunError("perf counted nothing")
    return counted / calls


def _benchmark(argv):
    """Runs redis-benchmark and returns the one row of its CSV by column name."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=RUN_SECONDS_MAX)
    except subprocess.TimeoutExpired as error:
        raise RunError(f"not finished after {RUN_SECONDS_MAX:.0f} s") from error
    return parse_benchmark(done.stdout, done.stderr)


def parse_benchmark(stdout, stderr=""):
    """The row of redis-benchmark's CSV. Whatever else it prints before (a warning that CONFIG
    cannot be fetched through a proxy) is skipped. Raises RunError when there is no such row."""
    lines = stdout.splitlines()
    for position, line in enumerate(lines):
        if line.startswith('"test"') and position + 1 < len(lines):
            return next(csv.DictReader(lines[position:position + 2]))
    raise RunError(f"redis-benchmark gave no result: {(stderr or stdout).strip()[-200:]}")


def _perf(argv, attach):
    """Runs `argv` under `perf stat` and returns the number of system calls entered, by the
    processes that `attach` names or by `argv` itself; None if the event cannot be counted."""
    done = subprocess.run(
        ["perf", "stat", "-x", ",", "-e", "raw_syscalls:sys_enter", *attach, "--", *argv],
        capture_output=True, text=True, timeout=RUN_SECONDS_MAX, check=False)
    for line in done.stderr.splitlines():
        fields = line.split(",")
        if len(fields) > 2 and fields[2].startswith("raw_syscalls"):
            return int(fields[0]) if fields[0].isdigit() else None
    return None
