"use strict";
// ioredis in cluster mode: it asks for the nodes, is told one, and finds every key there.

const assert = require("node:assert/strict");
const { Cluster } = require("ioredis");
const { URL: address, PROTOCOL, until, times, perform } = require("./stage");

const PREFIX = "ioredis-cluster:";
// Far more keys than shards, so that every shard has some.
const KEYS = times(300, (number) => `${PREFIX}${number}`);
const { hostname, port } = new URL(address);
const connections = [];
const redis = connect();

function connect(options = {}) {
  const { redisOptions, ...others } = options;
  const connection = new Cluster([{ host: hostname, port: Number(port) }], {
    redisOptions: { protocol: PROTOCOL, ...redisOptions },
    ...others,
  });
  connections.push(connection);
  return connection;
}

async function there_is_one_node_and_it_is_where_we_called() {
  assert.equal(await redis.set(KEYS[0], "x"), "OK");
  assert.deepEqual(redis.nodes().map((node) => [node.options.host, node.options.port]), [[hostname, Number(port)]]);
  assert.equal(redis.nodes("slave").length, 0);
  const slots = await redis.cluster("SLOTS");
  assert.deepEqual([slots.length, slots[0][0], slots[0][1]], [1, 0, 16383]);
  assert.deepEqual(slots[0][2].slice(0, 2), [hostname, Number(port)]);
  assert.equal(slots[0][2][2], await redis.cluster("MYID"));
  assert.equal(await redis.cluster("KEYSLOT", "foo"), 12182);
  assert.match(await redis.cluster("INFO"), /^cluster_state:ok\r\n/);
}

async function keys_of_all_shards() {
  assert.deepEqual(await Promise.all(KEYS.map((key) => redis.set(key, key.toUpperCase()))), KEYS.map(() => "OK"));
  assert.deepEqual(await Promise.all(KEYS.map((key) => redis.get(key))), KEYS.map((key) => key.toUpperCase()));
  await assert.rejects(redis.incr(KEYS[1]), { message: "ERR value is not an integer or out of range" });
  const tagged = times(50, (number) => `${PREFIX}{tag}:${number}`);
  assert.equal(await redis.mset(tagged.flatMap((key, number) => [key, number])), "OK");
  assert.deepEqual(await redis.mget(...tagged, `${PREFIX}{tag}:none`), [...times(50, String), null]);
  assert.equal(await redis.del(tagged), 50);
}

async function the_one_node_has_all_keys() {
  const [node] = redis.nodes();
  const seen = new Set();
  for await (const keys of node.scanStream({ match: `${PREFIX}*`, count: 30 })) keys.forEach((key) => seen.add(key));
  assert.ok(KEYS.every((key) => seen.has(key)));
  assert.equal(await node.dbsize(), seen.size);
}

async function pipelines() {
  const key = `${PREFIX}{pipe}`;
  const pipeline = redis.pipeline();
  for (const number of times(500)) pipeline.set(`${key}:${number}`, number).get(`${key}:${number}`);
  const wanted = times(500).flatMap((number) => [[null, "OK"], [null, String(number)]]);
  assert.deepEqual(await pipeline.exec(), wanted);
  const all = redis.pipeline();
  for (const one of KEYS) all.set(one, 7).incr(one);
  assert.deepEqual(await all.exec(), KEYS.flatMap(() => [[null, "OK"], [null, 8]]));
}

async function automatic_pipelines() {
  const automatic = connect({ enableAutoPipelining: true });
  await Promise.all(KEYS.map((key) => automatic.set(`${key}:auto`, key)));
  assert.deepEqual(await Promise.all(KEYS.map((key) => automatic.get(`${key}:auto`))), KEYS);
}

async function transactions() {
  const key = `${PREFIX}{block}`;
  const replies = await redis.multi().set(key, 1).incrby(key, 41).get(key).incr(`${key}:other`).exec();
  assert.deepEqual(replies, [[null, "OK"], [null, 42], [null, "42"], [null, 1]]);
  const many = await Promise.all(KEYS.slice(0, 50).map((one) => redis.multi().set(one, 1).incr(one).exec()));
  assert.deepEqual(many, times(50, () => [[null, "OK"], [null, 2]]));
}

async function scripts() {
  const scripted = connect({
    scripts: { addAll: { numberOfKeys: 1, lua: "return redis.call('INCRBY', KEYS[1], ARGV[1])" } },
  });
  const sums = await Promise.all(KEYS.slice(0, 50).map((key) => scripted.addAll(`${key}:sum`, 42)));
  assert.deepEqual(sums, times(50, () => 42));
  assert.deepEqual(await redis.eval("return {KEYS[1], ARGV[1]}", 1, KEYS[7], "a"), [KEYS[7], "a"]);
}

async function blocking_pops() {
  const keys = times(6, (number) => `${PREFIX}queue:${number}`);
  // Each on a connection of its own: one that waits keeps what comes behind it waiting.
  const popping = keys.map((key) => connect().blpop(key, 60));
  for (const key of keys) assert.equal(await redis.rpush(key, key.toUpperCase()), 1);
  assert.deepEqual(await Promise.all(popping), keys.map((key) => [key, key.toUpperCase()]));
}

async function subscriptions() {
  const subscriber = connect();
  const got = [];
  subscriber.on("message", (channel, message) => got.push([channel, message]));
  subscriber.on("pmessage", (pattern, channel, message) => got.push([pattern, channel, message]));
  assert.equal(await subscriber.subscribe(`${PREFIX}news`), 1);
  assert.equal(await subscriber.psubscribe(`${PREFIX}n?ws`), 2);
  for (const number of times(100)) await redis.publish(`${PREFIX}news`, number);
  await until("all messages are there", () => got.length === 200);
  const wanted = times(100).flatMap((number) => [
    [`${PREFIX}news`, String(number)],
    [`${PREFIX}n?ws`, `${PREFIX}news`, String(number)],
  ]);
  assert.deepEqual(got, wanted);
  assert.equal(await subscriber.unsubscribe(`${PREFIX}news`), 1);
  assert.equal(await subscriber.punsubscribe(`${PREFIX}n?ws`), 0);
}

async function reads_that_may_come_from_replicas() {
  // Each of its connections says READONLY first.
  const reader = connect({ scaleReads: "all" });
  await redis.set(KEYS[3], "here");
  await until("it is read", async () => (await reader.get(KEYS[3])) === "here");
}

async function nobody_is_an_administrator_here() {
  await assert.rejects(redis.cluster("FAILOVER"), /^ReplyError: NOPERM breakwater: /);
}

perform(
  [
    there_is_one_node_and_it_is_where_we_called,
    keys_of_all_shards,
    the_one_node_has_all_keys,
    pipelines,
    automatic_pipelines,
    transactions,
    scripts,
    blocking_pops,
    subscriptions,
    reads_that_may_come_from_replicas,
    nobody_is_an_administrator_here,
  ],
  () => connections.forEach((connection) => connection.disconnect()),
);
