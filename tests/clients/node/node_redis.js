"use strict";
// node-redis: automatic pipelines, transactions, pools, blocking pops, subscriptions, scripts, its client-side cache.

const assert = require("node:assert/strict");
const { createClient, createClientPool, defineScript, BasicClientSideCache, WatchError } = require("redis");
const { URL, PROTOCOL, PATIENCE_MS, until, times, perform } = require("./stage");

const PREFIX = "node-redis:";
const clients = [];
let redis;

async function connect(options = {}) {
  const client = createClient({ url: URL, RESP: PROTOCOL, ...options });
  client.on("error", (error) => console.error(error));
  clients.push(client);
  return await client.connect();
}

async function connects_and_names_itself() {
  redis = await connect({ name: "main", database: 0 });
  assert.equal(await redis.ping(), "PONG");
  assert.equal(await redis.clientGetName(), "main");
  assert.ok((await redis.clientInfo()).id > 0);
}

async function everything_of_one_tick_is_one_pipeline() {
  const writes = times(1_000, (number) => redis.set(`${PREFIX}${number}`, `v${number}`));
  const reads = times(1_000, (number) => redis.get(`${PREFIX}${number}`));
  assert.deepEqual(await Promise.all(writes), times(1_000, () => "OK"));
  assert.deepEqual(await Promise.all(reads), times(1_000, (number) => `v${number}`));
  await assert.rejects(redis.incr(`${PREFIX}0`), { message: "ERR value is not an integer or out of range" });
  assert.equal(await redis.hSet(`${PREFIX}hash`, { a: 1, b: "grüße" }), 2);
  assert.deepEqual({ ...(await redis.hGetAll(`${PREFIX}hash`)) }, { a: "1", b: "grüße" });
  await redis.zAdd(`${PREFIX}zset`, [{ score: 1.5, value: "x" }, { score: Infinity, value: "y" }]);
  const scored = [{ value: "x", score: 1.5 }, { value: "y", score: Infinity }];
  assert.deepEqual(await redis.zRangeWithScores(`${PREFIX}zset`, 0, -1), scored);
}

async function transactions() {
  const key = `${PREFIX}block`;
  assert.deepEqual(await redis.multi().set(key, "1").incrBy(key, 41).get(key).exec(), ["OK", 42, "42"]);
  assert.deepEqual(await redis.multi().ping().set(key, "2").execAsPipeline(), ["PONG", "OK"]);
  // One broken command is reported for itself, the others have been executed.
  const failed = await redis.multi().lPush(key, "x").incr(key).exec().catch((error) => error);
  assert.match(failed.replies[0].message, /^WRONGTYPE /);
  assert.equal(failed.replies[1], 3);
  await assert.rejects(redis.multi().incr(key).addCommand(["INCR"]).exec());
  assert.equal(await redis.get(key), "3");
}

async function optimistic_locking_in_a_pool() {
  const key = `${PREFIX}watched`;
  const pool = await createClientPool({ url: URL, RESP: PROTOCOL }, { minimum: 1, maximum: 5 }).connect();
  const increment = () => pool.execute(async (client) => {
    for (;;) {
      await client.watch(key);
      const value = Number(await client.get(key));
      try {
        return await client.multi().set(key, String(value + 1)).exec();
      } catch (error) {
        if (!(error instanceof WatchError)) throw error;
      }
    }
  });
  assert.deepEqual(await Promise.all(times(50, increment)), times(50, () => ["OK"]));
  assert.equal(await redis.get(key), "50");
  await pool.close();
}

const blocked = async (count) => (await redis.info("clients")).includes(`\r\nblocked_clients:${count}\r\n`);

async function blocking_pops() {
  const key = `${PREFIX}queue`;
  assert.equal(await redis.blPop(key, 0.05), null);
  const poppers = await Promise.all(times(10, () => redis.duplicate().connect()));
  clients.push(...poppers);
  const popping = Promise.all(poppers.map((popper) => popper.blPop([`${key}:none`, key], PATIENCE_MS / 1_000)));
  await until("ten clients are blocked", () => blocked(10));
  await redis.rPush(key, times(10, String));
  const popped = await popping;
  assert.deepEqual(popped.map(({ element }) => Number(element)).sort(), times(10));
  assert.ok(popped.every((one) => one.key === key));
  // A client that goes away while it waits takes nothing with it.
  poppers[0].brPop(key, 0).catch(() => {});
  await until("it is blocked", () => blocked(1));
  poppers[0].destroy();
  await until("nobody is blocked", () => blocked(0));
  assert.equal(await redis.rPush(key, "kept"), 1);
  assert.deepEqual(await redis.lRange(key, 0, -1), ["kept"]);
}

async function subscriptions() {
  const subscriber = await redis.duplicate().connect();
  clients.push(subscriber);
  const got = [];
  await subscriber.subscribe(`${PREFIX}news`, (message, channel) => got.push([channel, message]));
  await subscriber.pSubscribe(`${PREFIX}n?ws`, (message, channel) => got.push(["pattern", channel, message]));
  const counts = await Promise.all(times(200, (number) => redis.publish(`${PREFIX}news`, String(number))));
  assert.deepEqual(counts, times(200, () => 2));
  await until("all messages are there", () => got.length === 400);
  const wanted = times(200).flatMap((number) => [
    [`${PREFIX}news`, String(number)],
    ["pattern", `${PREFIX}news`, String(number)],
  ]);
  assert.deepEqual(got, wanted);
  const bytes = [];
  await subscriber.subscribe(`${PREFIX}bytes`, (message) => bytes.push(message), true);
  await redis.publish(`${PREFIX}bytes`, Buffer.from([0, 255]));
  await until("the bytes are there", () => bytes.length === 1);
  assert.deepEqual(bytes, [Buffer.from([0, 255])]);
  // With RESP3 a subscriber may do everything else as well.
  if (PROTOCOL === 3) assert.equal(await subscriber.set(`${PREFIX}beside`, "1"), "OK");
  await subscriber.unsubscribe();
  await subscriber.pUnsubscribe();
  assert.equal(await redis.publish(`${PREFIX}news`, "nobody"), 0);
  // (The library leaves the restricted mode of RESP2 with replies as bytes.)
  assert.equal(String(await subscriber.set(`${PREFIX}after`, "1")), "OK");
}

async function sharded_subscriptions() {
  const subscriber = await redis.duplicate().connect();
  clients.push(subscriber);
  const got = [];
  await subscriber.sSubscribe(`${PREFIX}shard`, (message) => got.push(message));
  assert.equal(await redis.sPublish(`${PREFIX}shard`, "hello"), 1);
  await until("the message is there", () => got.length === 1);
  assert.deepEqual(got, ["hello"]);
  await subscriber.sUnsubscribe(`${PREFIX}shard`);
}

async function scripts() {
  const add = defineScript({
    NUMBER_OF_KEYS: 1,
    SCRIPT: "return redis.call('INCRBY', KEYS[1], ARGV[1])",
    parseCommand: (parser, key, number) => (parser.pushKey(key), parser.push(String(number))),
    transformReply: (reply) => reply,
  });
  const scripted = await connect({ scripts: { add } });
  assert.equal(await scripted.add(`${PREFIX}sum`, 41), 41);
  await redis.scriptFlush();
  assert.equal(await scripted.add(`${PREFIX}sum`, 1), 42);
  assert.deepEqual(await scripted.multi().add(`${PREFIX}sum`, 1).get(`${PREFIX}sum`).exec(), [43, "43"]);
}

async function scans_streams_and_databases() {
  const other = await connect({ database: 7 });
  const wanted = times(500, (number) => `${PREFIX}scan:${number}`);
  await other.mSet(Object.fromEntries(wanted.map((key) => [key, "1"])));
  const seen = new Set();
  for await (const keys of other.scanIterator({ MATCH: `${PREFIX}scan:*`, COUNT: 60 })) {
    keys.forEach((key) => seen.add(key));
  }
  assert.deepEqual([...seen].sort(), wanted.sort());
  assert.equal(await redis.exists(wanted), 0);
  const key = `${PREFIX}stream`;
  await redis.xGroupCreate(key, "group", "$", { MKSTREAM: true });
  const reading = other.duplicate({ database: 0 }).connect().then(async (reader) => {
    clients.push(reader);
    return reader.xReadGroup("group", "ann", { key, id: ">" }, { BLOCK: PATIENCE_MS, COUNT: 1 });
  });
  await until("the reader waits", () => blocked(1));
  const id = await redis.xAdd(key, "*", { job: "a" });
  const [{ name, messages }] = await reading;
  assert.deepEqual([name, messages[0].id, { ...messages[0].message }], [key, id, { job: "a" }]);
  assert.equal(await redis.xAck(key, "group", id), 1);
}

async function client_side_cache() {
  const cache = new BasicClientSideCache();
  const caching = await connect({ RESP: 3, clientSideCache: cache });
  const key = `${PREFIX}cached`;
  await redis.set(key, "old");
  assert.deepEqual(await Promise.all(times(3, () => caching.get(key))), ["old", "old", "old"]);
  for (const _ of times(50)) assert.equal(await caching.get(key), "old");
  assert.ok(cache.stats().hitCount >= 50);
  await redis.set(key, "new");
  await until("the new value is seen", async () => (await caching.get(key)) === "new");
}

perform(
  [
    connects_and_names_itself,
    everything_of_one_tick_is_one_pipeline,
    transactions,
    optimistic_locking_in_a_pool,
    blocking_pops,
    subscriptions,
    sharded_subscriptions,
    scripts,
    scans_streams_and_databases,
    client_side_cache,
  ],
  () => clients.forEach((client) => client.isOpen && client.destroy()),
);
