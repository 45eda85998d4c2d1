"""Starts and stops what is compared: redis-server and the proxies in front of it.

Owns every process of a comparison, their ports, their files and their end: whatever was started is
stopped when the `Fleet` is left, by whichever way, and dies with this script even if the script is
killed. Never measures anything. How each peer is configured is in `peers.py`.
A peer that is missing or does not start is no error: it is remembered in `Fleet.missing` with the
reason, printed loudly, and the comparison goes on without it.
"""

import ctypes
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import measure
import peers
import progress
import resp

START_SECONDS_MAX = 15.0
STOP_SECONDS_MAX = 3.0
PR_SET_PDEATHSIG = 1
# A GET and not a PING: several proxies answer PING themselves, which says nothing about their upstream.
FIRST_QUESTION = ("GET", "no-such-key")


class StartError(Exception):
    """A server that is not installed, ended at once or did not answer in time."""


class Server:
    """One running process. `port` is where it listens, `log` the file with its output."""

    def __init__(self, name, launch, log):
        self.name, self.port, self.log = name, launch.port, log
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                launch.argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env=launch.environment, cwd=log.parent, process_group=0,
                preexec_fn=_die_with_parent)

    @property
    def pid(self):
        return self.process.pid

    def is_alive(self):
        return self.process.poll() is None

    def cpu_ns(self):
        """CPU time that it has used so far."""
        return measure.cpu_ns(self.pid)

    def calls(self):
        """Commands of the loads that it, a redis-server, has executed so far."""
        return resp.calls_of(self.port)

    def wait_until_it_answers(self, question):
        """Asks until a reply comes that is no error."""
        deadline = time.monotonic() + START_SECONDS_MAX
        why = "no answer"
        while time.monotonic() < deadline:
            if not self.is_alive():
                status = self.process.returncode
                raise StartError(f"ended with status {status}: {self.last_words()}")
            try:
                with resp.Client(self.port, timeout=2.0) as client:
                    client.call(*question)
                    return
            except (OSError, resp.ReplyError) as error:
                why = str(error)
                time.sleep(0.05)
        raise StartError(f"did not answer within {START_SECONDS_MAX:.0f} s ({why})")

    def last_words(self):
        """The end of the log, on one line."""
        lines = self.log.read_text(errors="replace").strip().splitlines()[-3:]
        return " | ".join(lines)[-400:] or "no output"

    def stop(self):
        """SIGTERM, then SIGKILL after STOP_SECONDS_MAX; returns when the process is gone."""
        if self.is_alive():
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


class Fleet:
    """One redis-server and the proxies in front of it.

    `redis` is the shared redis-server; `proxies` maps a name to its running Server; `missing` maps
    a name to the reason why it does not take part. The second instance of the proxy under test is
    called `<name>-aa`; comparing it with the first shows how much of a difference is noise.
    """

    def __init__(self, plan):
        self.plan = plan
        self.directory = Path(tempfile.mkdtemp(prefix="breakwater-load-"))
        self.redis = None
        self.proxies = {}
        self.missing = {}
        self._started = []

    def __enter__(self):
        try:
            self.redis = self._launch("redis-server", lambda port: peers.redis_server(port))
            for name in self.plan.names:
                self._try_start(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for server in reversed(self._started):
            server.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def preload(self, load):
        """Stores the values that `load` asks for."""
        resp.preload(self.redis.port, load.keys, load.size)

    def behind(self, _name):
        """The redis-server that this target's requests arrive at."""
        return self.redis

    def targets(self):
        """Name → Server of everything a cell compares, direct Redis first. Dead proxies are left
        out and reported as missing."""
        for name, server in list(self.proxies.items()):
            if not server.is_alive():
                del self.proxies[name]
                self._report_missing(name, f"died while running: {server.last_words()}")
        return {"direct": self.redis, **self.proxies}

    def fresh(self, name):
        """Starts one more process of proxy `name`, whose memory no earlier cell has grown. The
        caller stops it; leaving the fleet stops it in any case. Raises StartError."""
        return self._launch(name, lambda port: self._configure(name, port))

    def _try_start(self, name):
        try:
            self.proxies[name] = self._launch(name, lambda port: self._configure(name, port))
        except StartError as error:
            self._report_missing(name, str(error))

    def _report_missing(self, name, reason):
        self.missing[name] = reason
        progress.warn(f"MISSING: {name}: {reason}")

    def _configure(self, name, port):
        directory = self.directory / f"{name}-{port}"
        directory.mkdir()
        try:
            return self._configuration(name, directory, port)
        except peers.NotInstalled as error:
            raise StartError(str(error)) from error

    def _configuration(self, name, directory, port):
        kind = name.removesuffix("-aa")
        return peers.CONFIGURE[kind](self.plan, directory, port, self.redis.port)

    def _launch(self, name, configure, question=FIRST_QUESTION):
        launch = configure(peers.free_port())
        if shutil.which(launch.argv[0]) is None:
            raise StartError(f"{launch.argv[0]} is not installed or not executable")
        server = Server(name, launch, self.directory / f"{name}-{launch.port}.log")
        self._started.append(server)
        try:
            server.wait_until_it_answers(question)
        except BaseException:
            server.stop()
            raise
        return server


def raise_file_limit():
    """Lifts the soft limit of open files to the hard one, inherited by every server; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


_LIBC = ctypes.CDLL(None, use_errno=True)
_PARENT = os.getpid()


def _die_with_parent():
    """Runs in the child: the kernel kills it when this script is gone, even after a kill -9."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != _PARENT:
        os._exit(1)
