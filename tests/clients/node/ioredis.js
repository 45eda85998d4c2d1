"use strict";
// ioredis: pipelines of its own and automatic ones, transactions, blocking pops, subscriptions, Lua, scans, prefixes.

const assert = require("node:assert/strict");
const Redis = require("ioredis");
const { URL, PROTOCOL, PATIENCE_MS, until, times, perform } = require("./stage");

const PREFIX = "ioredis:";
const connections = [];
const redis = connect();

function connect(options = {}) {
  const connection = new Redis(URL, { protocol: PROTOCOL, ...options });
  connections.push(connection);
  return connection;
}

async function pipelines() {
  const pipeline = redis.pipeline();
  for (const number of times(1_000)) pipeline.set(`${PREFIX}${number}`, number).get(`${PREFIX}${number}`);
  const wanted = times(1_000).flatMap((number) => [[null, "OK"], [null, String(number)]]);
  assert.deepEqual(await pipeline.exec(), wanted);
  // An error spoils its own command only.
  const mixed = await redis.pipeline().set(`${PREFIX}text`, "x").incr(`${PREFIX}text`).get(`${PREFIX}text`).exec();
  assert.deepEqual([mixed[0][1], mixed[2][1]], ["OK", "x"]);
  assert.equal(mixed[1][0].message, "ERR value is not an integer or out of range");
}

async function automatic_pipelines() {
  const automatic = connect({ enableAutoPipelining: true });
  await Promise.all(times(300, (number) => automatic.hset(`${PREFIX}hash`, `f${number}`, number)));
  const values = await Promise.all(times(300, (number) => automatic.hget(`${PREFIX}hash`, `f${number}`)));
  assert.deepEqual(values, times(300, String));
  assert.equal(Object.keys(await automatic.hgetall(`${PREFIX}hash`)).length, 300);
}

async function transactions() {
  const key = `${PREFIX}block`;
  const replies = await redis.multi().set(key, 1).incrby(key, 41).get(key).exec();
  assert.deepEqual(replies, [[null, "OK"], [null, 42], [null, "42"]]);
  // Not as one pipeline, but command by command.
  await redis.multi({ pipeline: false });
  assert.equal(await redis.incr(key), "QUEUED");
  assert.equal(await redis.get(key), "QUEUED");
  assert.deepEqual(await redis.exec(), [[null, 43], [null, "43"]]);
  await redis.multi({ pipeline: false });
  assert.equal(await redis.incr(key), "QUEUED");
  assert.equal(await redis.discard(), "OK");
  assert.equal(await redis.get(key), "43");
  // A command that cannot even be queued: nothing is executed.
  const broken = redis.multi().incr(key).call("incr").exec();
  await assert.rejects(broken, /EXECABORT Transaction discarded because of previous errors/);
  assert.equal(await redis.get(key), "43");
}

async function optimistic_locking() {
  const key = `${PREFIX}watched`;
  await redis.set(key, 0);
  const increment = async (connection) => {
    for (;;) {
      await connection.watch(key);
      const value = Number(await connection.get(key));
      if (await connection.multi().set(key, value + 1).exec()) return;
    }
  };
  await Promise.all(times(5, async () => {
    const connection = connect();
    for (const _ of times(10)) await increment(connection);
  }));
  assert.equal(await redis.get(key), "50");
  await redis.watch(key);
  await connections[1].set(key, "from elsewhere");
  assert.equal(await redis.multi().set(key, "lost").exec(), null);
  assert.equal(await redis.get(key), "from elsewhere");
}

const blocked = async (count) => (await redis.info("clients")).includes(`\r\nblocked_clients:${count}\r\n`);

async function blocking_pops() {
  const key = `${PREFIX}queue`;
  const poppers = times(10, () => connect());
  assert.equal(await poppers[0].blpop(key, 0.05), null);
  const popping = Promise.all(poppers.map((popper) => popper.blpop(`${key}:none`, key, PATIENCE_MS / 1_000)));
  await until("ten clients are blocked", () => blocked(10));
  await redis.rpush(key, times(10));
  const popped = (await popping).map(([name, element]) => (assert.equal(name, key), Number(element)));
  assert.deepEqual(popped.sort(), times(10));
  // A client that goes away while it waits takes nothing with it.
  const leaving = poppers[0].brpop(key, 0);
  leaving.catch(() => {});
  await until("it is blocked", () => blocked(1));
  poppers[0].disconnect();
  await until("nobody is blocked", () => blocked(0));
  assert.equal(await redis.rpush(key, "kept"), 1);
  assert.deepEqual(await redis.lrange(key, 0, -1), ["kept"]);
}

async function subscriptions() {
  const subscriber = connect();
  const got = [];
  subscriber.on("message", (channel, message) => got.push([channel, message]));
  subscriber.on("pmessage", (pattern, channel, message) => got.push([pattern, channel, message]));
  assert.equal(await subscriber.subscribe(`${PREFIX}news`, `${PREFIX}other`), 2);
  assert.equal(await subscriber.psubscribe(`${PREFIX}n?ws`), 3);
  const counts = await Promise.all(times(200, (number) => redis.publish(`${PREFIX}news`, number)));
  assert.deepEqual(counts, times(200, () => 2));
  await until("all messages are there", () => got.length === 400);
  const wanted = times(200).flatMap((number) => [
    [`${PREFIX}news`, String(number)],
    [`${PREFIX}n?ws`, `${PREFIX}news`, String(number)],
  ]);
  assert.deepEqual(got, wanted);
  assert.equal(await subscriber.unsubscribe(`${PREFIX}news`, `${PREFIX}other`), 1);
  assert.equal(await subscriber.punsubscribe(`${PREFIX}n?ws`), 0);
  assert.equal(await redis.publish(`${PREFIX}news`, "nobody"), 0);
  // Back among the ordinary clients.
  assert.equal(await subscriber.set(`${PREFIX}after`, 1), "OK");
}

async function subscriptions_survive_a_lost_connection() {
  const subscriber = connect({ retryStrategy: () => 10 });
  const got = [];
  subscriber.on("message", (_, message) => got.push(message));
  await subscriber.subscribe(`${PREFIX}again`);
  subscriber.disconnect(true);
  // The library subscribes again by itself; until then messages reach nobody.
  await until("a message comes", async () => {
    await redis.publish(`${PREFIX}again`, "hello");
    return got.length > 0;
  });
  assert.equal(got[0], "hello");
}

async function scripts() {
  const lua = `
    local sum
    for _, number in ipairs(ARGV) do sum = redis.call('INCRBY', KEYS[1], number) end
    return sum`;
  const scripted = connect({ scripts: { addAll: { numberOfKeys: 1, lua } } });
  assert.equal(await scripted.addAll(`${PREFIX}sum`, 1, 2, 39), 42);
  // Forgotten by the server: the library sends the source again, alone and in a pipeline.
  await redis.script("FLUSH");
  assert.equal(await scripted.addAll(`${PREFIX}sum`, 1), 43);
  await redis.script("FLUSH");
  // (Directly at Redis it runs the script behind the rest of the pipeline; who heals the loss keeps the order.)
  const results = await scripted.pipeline().addAll(`${PREFIX}sum`, 1).get(`${PREFIX}sum`).exec();
  assert.deepEqual(results[0], [null, 44]);
  assert.equal(results[1][0], null);
  redis.defineCommand("echoed", { numberOfKeys: 0, lua: "return ARGV" });
  assert.deepEqual(await redis.echoedBuffer(Buffer.from([0, 255])), [Buffer.from([0, 255])]);
}

async function scans() {
  const wanted = times(500, (number) => `${PREFIX}scan:${number}`);
  await redis.mset(wanted.flatMap((key) => [key, 1]));
  const seen = new Set();
  for await (const keys of redis.scanStream({ match: `${PREFIX}scan:*`, count: 60 })) {
    keys.forEach((key) => seen.add(key));
  }
  assert.deepEqual([...seen].sort(), wanted.sort());
  await redis.sadd(`${PREFIX}set`, wanted);
  const members = [];
  for await (const some of redis.sscanStream(`${PREFIX}set`)) members.push(...some);
  assert.deepEqual([...new Set(members)].sort(), wanted);
}

async function streams() {
  const [key, reader] = [`${PREFIX}stream`, connect()];
  assert.equal(await redis.xgroup("CREATE", key, "group", "$", "MKSTREAM"), "OK");
  const reading = reader.xreadgroup("GROUP", "group", "ann", "COUNT", 1, "BLOCK", PATIENCE_MS, "STREAMS", key, ">");
  await until("the reader waits", () => blocked(1));
  const id = await redis.xadd(key, "*", "job", "a");
  assert.deepEqual(await reading, [[key, [[id, ["job", "a"]]]]]);
  assert.deepEqual(await redis.xpending(key, "group"), [1, id, id, [["ann", "1"]]]);
  assert.equal(await redis.xack(key, "group", id), 1);
}

async function prefixes_and_databases() {
  const prefixed = connect({ keyPrefix: `${PREFIX}prefixed:`, db: 6 });
  await prefixed.mset("a", 1, "b", 2);
  assert.deepEqual(await prefixed.mget("a", "b", "c"), ["1", "2", null]);
  assert.equal(await prefixed.eval("return redis.call('GET', KEYS[1])", 1, "b"), "2");
  assert.equal(await redis.exists(`${PREFIX}prefixed:a`), 0);
  await redis.select(6);
  assert.equal(await redis.get(`${PREFIX}prefixed:a`), "1");
  await redis.select(0);
}

perform(
  [
    pipelines,
    automatic_pipelines,
    transactions,
    optimistic_locking,
    blocking_pops,
    subscriptions,
    subscriptions_survive_a_lost_connection,
    scripts,
    scans,
    streams,
    prefixes_and_databases,
  ],
  () => connections.forEach((connection) => connection.disconnect()),
);
