#!/usr/bin/env python3
"""Builds commands.tsv from the COMMAND dumps of three servers.

Usage: generate.py DIRECTORY > commands.tsv

DIRECTORY holds commands-redis-7.0.json, commands-redis-8-dev.json and commands-valkey-8-dev.json.
Only facts are taken over (arity, flags, categories, key specs, policies), no descriptions. The two
columns that are decisions of ours, `class` and `lane`, are decided by the rules below. A command
that looks as if it touched its connection and that no rule names stops the generator: somebody has
to think about it first.
"""

import json
import pathlib
import sys

# File name and the letter that stands for the server in the second column.
SERVERS = [("redis-7.0", "7"), ("redis-8-dev", "8"), ("valkey-8-dev", "v")]

HEADER = """\
# The built-in command table: one line a command or subcommand, sorted by name, made by generate.py.
# Columns, separated by tabs; '-' stands for empty:
#   name  servers  group  class  lane  arity  flags  categories  first,last,step  request  response  keys
# servers: 7 = Redis 7.0, 8 = Redis 8 (development), v = Valkey 8 (development).
# Where the servers differ on a command, Redis 7.0 is right, except: the flag `blocking` counts if any
# server has it (WAIT); categories are the union; arity is the widest (a server refuses what it does not
# take itself); the request and response policies are those of the newer servers, because 7.0's are
# incomplete (CONFIG RESETSTAT) or wrong (MSETNX must not be split). The flags user_code and repeatable are ours; the
# nondeterministic flags are tips of the servers.
# keys: specs separated by ';', each flags@begin/find. begin: iINDEX, kWORD,FROM or ?. find:
# rLAST,STEP,LIMIT (range), nINDEX,FIRST,STEP (a count, then the keys) or ?.
"""

# ---- class: what a command does to the connection it travels on -------------------------------

# The script debugger takes the connection over and speaks a protocol of its own: always refused.
STRUCTURAL = {"script|debug"}

# Confirmations and messages come out of band.
SUBSCRIBER = {
    "psubscribe", "punsubscribe", "ssubscribe", "subscribe", "sunsubscribe", "unsubscribe",
}

# They read or change the state of the client's own connection, which is ours to keep. Forwarded on a
# lane they would tell about the lane, or change it for everybody on it.
LOCAL = {
    "asking", "auth", "echo", "hello", "quit", "readonly", "readwrite", "reset", "select",
    "client", "client|capa", "client|getname", "client|getredir", "client|help", "client|id",
    "client|info", "client|kill", "client|list", "client|no-evict", "client|no-touch",
    "client|reply", "client|setinfo", "client|setname", "client|trackinginfo", "client|unblock",
}

# They need a connection of their own. Every command with the flag `blocking` joins them, except
# XREAD and XREADGROUP: these block only with BLOCK, which the proxy looks for.
PINNED = {
    "discard", "exec", "multi", "unwatch", "watch",             # transactions
    "client|caching", "client|tracking",                        # the server remembers per connection
    "client|pause", "client|unpause",                           # holds back the lane's own writes too
    "wait", "waitaof",                                          # count the writes of their connection
    "monitor", "psync", "replconf", "sync",                     # an endless reply, and what goes before it
    "debug",                                                    # sleeps, crashes, changes the protocol
    "shutdown",                                                 # no reply when it works
    "save", "failover", "replicaof", "slaveof",                 # stop or turn the server around
    "acl|deluser", "acl|load",                                  # may close the connection that asked
}

BLOCKS_ONLY_WITH_AN_ARGUMENT = {"xread", "xreadgroup"}

# Flagged noscript, pubsub, admin or blocking, looked at, and harmless for a shared connection: one
# reply each, and nothing about the connection changes. In groups ("acl|*") or by name.
SHARED_THOUGH_FLAGGED = {
    "acl|*", "cluster|*", "config|*", "function|*", "latency|*", "module|*", "pubsub|*", "script|*",
    "slowlog|*", "bgrewriteaof", "bgsave", "eval", "eval_ro", "evalsha", "evalsha_ro", "fcall",
    "fcall_ro", "pfdebug", "pfselftest", "publish", "role", "spublish",
} | BLOCKS_ONLY_WITH_AN_ARGUMENT

# They change nothing although no server flags them readonly: sent twice, they are only answered twice.
REPEATABLE = {
    "command", "command|count", "command|docs", "command|getkeys", "command|getkeysandflags", "command|help",
    "command|info", "command|list", "info", "lastsave", "ping", "role", "time",
}

# They run code that the user wrote: what their error replies say proves nothing about what was done.
USER_CODE = {"eval", "eval_ro", "evalsha", "evalsha_ro", "fcall", "fcall_ro"}

# ---- lane: whether a command may travel with the small ones -----------------------------------

# Bulk is what is O(N) by its name alone and either has a reply that nobody bounded or keeps the server
# busy. Scans and commands with an explicit count are bounded by their arguments and stay fast. So do
# the ZREMRANGE family and other writes with a small reply: rate limiters mix them with ZADD in one
# pipeline, and every change of lane makes a client wait for its earlier replies. SCRIPT KILL, FUNCTION
# KILL and FUNCTION STATS must not queue behind the very script they are about: fast.
BULK = {
    "keys", "sort", "sort_ro",
    "hgetall", "hkeys", "hvals",
    "smembers", "sdiff", "sdiffstore", "sinter", "sintercard", "sinterstore", "sunion", "sunionstore",
    "lrange",
    "zdiff", "zdiffstore", "zinter", "zintercard", "zinterstore", "zunion", "zunionstore",
    "zrange", "zrangebylex", "zrangebyscore", "zrangestore",
    "zrevrange", "zrevrangebylex", "zrevrangebyscore",
    "xrange", "xrevrange", "xread", "xreadgroup",
    "georadius", "georadius_ro", "georadiusbymember", "georadiusbymember_ro",
    "geosearch", "geosearchstore",
    "bitop", "lcs", "pfdebug", "pfselftest",
    "eval", "eval_ro", "evalsha", "evalsha_ro", "fcall", "fcall_ro",
    "script|flush", "script|load", "script|show",
    "function|delete", "function|dump", "function|flush", "function|list", "function|load",
    "function|restore",
    "flushall", "flushdb", "save", "bgsave", "bgrewriteaof", "config|rewrite", "acl|save",
    "copy", "dump", "migrate", "restore", "restore-asking",
    "command", "command|docs", "command|info", "command|list",
    "cluster|getkeysinslot", "cluster|slot-stats",
    "memory|malloc-stats", "memory|purge",
    "module|load", "module|loadex", "module|unload",
    "debug",
}


def class_of(name, flags):
    """The class of a command; stops on one that needs a decision."""
    if name in STRUCTURAL:
        return "structural"
    if name in SUBSCRIBER:
        return "subscriber"
    if name in LOCAL:
        return "local"
    if name in PINNED or ("blocking" in flags and name not in BLOCKS_ONLY_WITH_AN_ARGUMENT):
        return "pinned"
    suspicious = {"noscript", "pubsub", "admin", "blocking", "no_auth", "no_multi"} & set(flags)
    family = name.split("|")[0] + "|*"
    if suspicious and not {name, family} & SHARED_THOUGH_FLAGGED:
        sys.exit(f"{name} is flagged {sorted(suspicious)}: give it a class")
    return "shared"


def load(directory):
    """name -> {letter: facts} for every command and subcommand of the three servers."""
    known = {}

    def walk(letter, parent, commands):
        for word, facts in commands.items():
            name = f"{parent}|{word}" if parent else word
            known.setdefault(name, {})[letter] = facts
            walk(letter, name, facts.get("subcommands") or {})

    for server, letter in SERVERS:
        walk(letter, "", json.loads((directory / f"commands-{server}.json").read_text()))
    return known


def policy(by_server, kind):
    """The request or response policy; the newest server that knows the command decides."""
    newest = by_server.get("8") or by_server.get("v") or by_server["7"]
    found = [tip.split(":")[1] for tip in newest["tips"] if tip.startswith(kind + "_policy:")]
    return found[0] if found else "-"


def widest_arity(by_server):
    """A negative arity is a minimum. Servers that disagree: the one that takes the most forms."""
    arities = {facts["arity"] for facts in by_server.values()}
    if len(arities) == 1:
        return arities.pop()
    return -min(abs(arity) for arity in arities)


def union(by_server, field):
    """Values of all servers, in the order of the oldest."""
    return list(dict.fromkeys(value for facts in by_server.values() for value in facts[field]))


def flags_of(name, by_server):
    """The oldest server's flags, and those that come from elsewhere."""
    oldest = next(iter(by_server.values()))
    flags = list(oldest["flags"])
    if "blocking" in union(by_server, "flags") and "blocking" not in flags:
        flags.append("blocking")
    if name in USER_CODE:
        flags.append("user_code")
    if name in REPEATABLE:
        flags.append("repeatable")
    # The servers publish this one as a tip; to us it is a flag like the others.
    return flags + [tip for tip in union(by_server, "tips") if tip.startswith("nondeterministic")]


def key_spec(spec):
    """One key spec in the notation of the header."""
    begin, find = spec["begin_search"], spec["find_keys"]
    b, f = begin["spec"], find["spec"]
    start = {
        "index": lambda: f"i{b['index']}",
        "keyword": lambda: f"k{b['keyword']},{b['startfrom']}",
        "unknown": lambda: "?",
    }[begin["type"]]()
    keys = {
        "range": lambda: f"r{f['lastkey']},{f['keystep']},{f['limit']}",
        "keynum": lambda: f"n{f['keynumidx']},{f['firstkey']},{f['keystep']}",
        "unknown": lambda: "?",
    }[find["type"]]()
    return f"{'+'.join(spec['flags'])}@{start}/{keys}"


def row(name, known):
    """One line of the table."""
    by_server = known[name]
    oldest = next(iter(by_server.values()))
    container = next(iter(known[name.split("|")[0]].values()))
    flags = flags_of(name, by_server)
    columns = [
        name,
        "".join(by_server),
        oldest.get("group") or container["group"],
        class_of(name, flags),
        "bulk" if name in BULK else "fast",
        str(widest_arity(by_server)),
        ",".join(flags) or "-",
        ",".join(category.lstrip("@") for category in union(by_server, "acl_categories")) or "-",
        f"{oldest['first_key']},{oldest['last_key']},{oldest['step']}",
        policy(by_server, "request"),
        policy(by_server, "response"),
        ";".join(key_spec(spec) for spec in oldest["key_specs"]) or "-",
    ]
    return "\t".join(columns)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    known = load(pathlib.Path(sys.argv[1]))
    named = STRUCTURAL | SUBSCRIBER | LOCAL | PINNED | USER_CODE | BULK
    unknown = named - set(known)
    if unknown:
        sys.exit(f"rules name commands that no server knows: {sorted(unknown)}")
    sys.stdout.write(HEADER)
    for name in sorted(known):
        print(row(name, known))


main()
