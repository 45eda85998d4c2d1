"""The servers of one run: a fresh redis-server and, if asked for, a fresh Breakwater in front.

Owns their processes, ports and files, all of which end with the run. Nothing of one run is left for
the next: a CONFIG SET that a test did not take back, or a memory peak, must not become a difference
between Redis and Breakwater.
"""

import functools
import os
import shlex
import shutil
import tempfile
from pathlib import Path

import peers
import servers


class Stage:
    """Entered, it has `port`: where the suite is to connect; and `log`: a file for its output."""

    def __init__(self, breakwater=None, breakwater_args=""):
        self.breakwater, self.arguments = breakwater, shlex.split(breakwater_args)
        self.port = self.directory = self.log = None
        self._started = []

    def __enter__(self):
        self.directory = Path(tempfile.mkdtemp(prefix="breakwater-tcl-"))
        self.log = self.directory / "suite.log"
        try:
            self.port = self._start("redis-server", redis_server).port
            if self.breakwater is not None:
                proxy = functools.partial(self._proxy, self.port)
                self.port = self._start("breakwater", proxy).port
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for server in reversed(self._started):
            server.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def deaths(self):
        """One line for each server that has ended by itself."""
        return [f"{server.name} has ended with status {server.process.returncode}: "
                f"{server.last_words()}" for server in self._started if not server.is_alive()]

    def _start(self, name, configure):
        server = servers.Server(name, configure(peers.free_port()), self.directory / f"{name}.log")
        self._started.append(server)
        server.wait_until_it_answers(("PING",))
        return server

    def _proxy(self, redis_port, port):
        """Two workers: what a test does with two clients must work wherever they land. The flags of
        this shell's environment are not the test's."""
        argv = [str(self.breakwater), "run", "--listen", f"127.0.0.1:{port}",
                "--upstream", f"redis://127.0.0.1:{redis_port}",
                "--admin", "off", "--workers", "2"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("BREAKWATER_")}
        return peers.Launch(argv + self.arguments, port, environment)


def redis_server(port):
    """What Redis's own tests of external servers start: everything allowed, nothing saved."""
    return peers.Launch(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "",
         "--enable-protected-configs", "yes", "--enable-debug-command", "yes",
         "--enable-module-command", "yes"], port)
