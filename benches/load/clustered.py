"""Starts a Redis Cluster of three primaries and the proxies in front of it.

Owns how the nodes find each other and who takes part: the proxy under test twice (A/A), the same binary before one
redis-server, and Envoy in Redis Cluster mode. Never measures anything; `servers.py` starts and stops the processes.
What surprises: the three nodes count as one Redis, whose CPU time and calls are sums.
"""

import time

import cells
import peers
import resp
import servers

PRIMARIES = 3
SLOTS = 16384
FORM_SECONDS_MAX = 30.0


class Nodes:
    """The nodes of the cluster as if they were one server."""

    def __init__(self, nodes):
        self.nodes = nodes

    def cpu_ns(self):
        return sum(node.cpu_ns() for node in self.nodes)

    def calls(self):
        return sum(node.calls() for node in self.nodes)


class ClusterFleet(servers.Fleet):
    """One redis-server, a cluster, and proxies: `before-one` stands before the former, all others
    before the latter."""

    def __init__(self, plan):
        super().__init__(plan)
        self.nodes = None

    def __enter__(self):
        try:
            self.redis = self._launch("redis-server", peers.redis_server)
            self.nodes = Nodes([self._node() for _ in range(PRIMARIES)])
            _form([node.port for node in self.nodes.nodes], self.buses)
            for name in self.plan.names:
                self._try_start(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    @property
    def buses(self):
        return [node.bus for node in self.nodes.nodes]

    def preload(self, load):
        """Both stores get the same values, the cluster through whoever is there to route them."""
        super().preload(load)
        others = [s for name, s in self.targets().items() if name != cells.STANDALONE]
        if others:
            for node in self.nodes.nodes:
                resp.empty(node.port)
            resp.store(others[0].port, load.keys, load.size)

    def behind(self, name):
        return self.redis if name == cells.STANDALONE else self.nodes

    def targets(self):
        found = super().targets()
        del found["direct"]
        return found

    def _node(self):
        bus = peers.free_port()

        def configure(port):
            directory = self.directory / f"node-{port}"
            directory.mkdir()
            return peers.cluster_node(directory, port, bus)

        node = self._launch("redis-server", configure, ("PING",))
        node.bus = bus
        return node

    def _configuration(self, name, directory, port):
        seed = self.nodes.nodes[0].port
        if name == cells.STANDALONE:
            return peers.breakwater(self.plan, directory, port, self.redis.port)
        if name == "envoy":
            return peers.envoy_in_cluster_mode(self.plan, directory, port, seed)
        return peers.breakwater_before(self.plan, port, f"redis-cluster://127.0.0.1:{seed}")


def names(subject, without):
    """Who takes part, in the tables' order; only these can route by slot."""
    proxies = [subject, f"{subject}-aa", cells.STANDALONE, "envoy"]
    return [name for name in proxies if name not in without]


def _form(ports, buses):
    """Makes the nodes a cluster and waits until each calls it whole."""
    for place, port in enumerate(ports):
        first, end = (SLOTS * edge // len(ports) for edge in (place, place + 1))
        with resp.Client(port) as client:
            client.call("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
            client.call("CLUSTER", "SET-CONFIG-EPOCH", place + 1)
            for other, bus in list(zip(ports, buses, strict=True))[:place]:
                client.call("CLUSTER", "MEET", "127.0.0.1", other, bus)
    deadline = time.monotonic() + FORM_SECONDS_MAX
    while not all(_is_whole(port) for port in ports):
        if time.monotonic() > deadline:
            raise servers.StartError(f"no cluster after {FORM_SECONDS_MAX:.0f} s")
        time.sleep(0.05)


def _is_whole(port):
    with resp.Client(port) as client:
        info = client.call("CLUSTER", "INFO").decode()
    return "cluster_state:ok" in info and f"cluster_size:{PRIMARIES}" in info
