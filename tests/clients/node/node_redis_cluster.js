"use strict";
// node-redis in cluster mode: it asks for the nodes, is told one, and finds every key there.

const assert = require("node:assert/strict");
const { createCluster, defineScript } = require("redis");
const { URL: address, PROTOCOL, until, times, perform } = require("./stage");

const PREFIX = "node-redis-cluster:";
// Far more keys than shards, so that every shard has some.
const KEYS = times(300, (number) => `${PREFIX}${number}`);
const { host } = new URL(address);
const clusters = [];
let redis;

async function connect(options = {}) {
  const cluster = createCluster({ rootNodes: [{ url: address }], RESP: PROTOCOL, ...options });
  cluster.on("error", (error) => console.error(error));
  clusters.push(cluster);
  await cluster.connect();
  return cluster;
}

async function there_is_one_node_and_it_is_where_we_called() {
  redis = await connect();
  assert.deepEqual([redis.masters.length, redis.replicas.length], [1, 0]);
  assert.equal(redis.masters[0].address, host);
  assert.ok(redis.slots.length === 16384 && redis.slots.every((slot) => slot.master === redis.masters[0]));
  const node = await redis.nodeClient(redis.masters[0]);
  assert.equal(await node.clusterMyId(), redis.masters[0].id);
  assert.match(await node.clusterInfo(), /^cluster_state:ok\r\n/);
  assert.equal(await node.clusterKeySlot("foo"), 12182);
}

async function keys_of_all_shards() {
  assert.deepEqual(await Promise.all(KEYS.map((key) => redis.set(key, key.toUpperCase()))), KEYS.map(() => "OK"));
  assert.deepEqual(await Promise.all(KEYS.map((key) => redis.get(key))), KEYS.map((key) => key.toUpperCase()));
  await assert.rejects(redis.incr(KEYS[1]), { message: "ERR value is not an integer or out of range" });
  const tagged = times(50, (number) => `${PREFIX}{tag}:${number}`);
  assert.equal(await redis.mSet(Object.fromEntries(tagged.map((key, number) => [key, String(number)]))), "OK");
  assert.deepEqual(await redis.mGet([...tagged, `${PREFIX}{tag}:none`]), [...times(50, String), null]);
  assert.equal(await redis.del(tagged), 50);
}

async function the_one_node_has_all_keys() {
  const node = await redis.nodeClient(redis.masters[0]);
  const seen = new Set();
  for await (const keys of node.scanIterator({ MATCH: `${PREFIX}*`, COUNT: 30 })) keys.forEach((key) => seen.add(key));
  assert.ok(KEYS.every((key) => seen.has(key)));
  assert.equal(await node.dbSize(), seen.size);
}

async function transactions_and_pipelines() {
  const key = `${PREFIX}{block}`;
  const replies = await redis.multi().set(key, "1").incrBy(key, 41).get(key).incr(`${key}:other`).exec();
  assert.deepEqual(replies, ["OK", 42, "42", 1]);
  const many = await Promise.all(KEYS.slice(0, 50).map((one) => redis.multi().set(one, "1").incr(one).exec()));
  assert.deepEqual(many, times(50, () => ["OK", 2]));
  assert.deepEqual(await redis.multi().set(key, "2").get(key).execAsPipeline(), ["OK", "2"]);
}

async function scripts() {
  const add = defineScript({
    NUMBER_OF_KEYS: 1,
    SCRIPT: "return redis.call('INCRBY', KEYS[1], ARGV[1])",
    parseCommand: (parser, key, number) => (parser.pushKey(key), parser.push(String(number))),
    transformReply: (reply) => reply,
  });
  const scripted = await connect({ scripts: { add } });
  const sums = await Promise.all(KEYS.slice(0, 50).map((key) => scripted.add(`${key}:sum`, 42)));
  assert.deepEqual(sums, times(50, () => 42));
  const echoed = await redis.eval("return {KEYS[1], ARGV[1]}", { keys: [KEYS[7]], arguments: ["a"] });
  assert.deepEqual(echoed, [KEYS[7], "a"]);
}

async function blocking_pops() {
  const keys = times(6, (number) => `${PREFIX}queue:${number}`);
  // Each on a connection of its own: one that waits keeps what comes behind it waiting.
  const poppers = await Promise.all(keys.map(() => connect()));
  const popping = poppers.map((popper, number) => popper.blPop(keys[number], 60));
  for (const key of keys) assert.equal(await redis.rPush(key, key.toUpperCase()), 1);
  const popped = (await Promise.all(popping)).map(({ key, element }) => [key, element]);
  assert.deepEqual(popped, keys.map((key) => [key, key.toUpperCase()]));
}

async function subscriptions() {
  const got = [];
  await redis.subscribe(`${PREFIX}news`, (message, channel) => got.push([channel, message]));
  await redis.pSubscribe(`${PREFIX}n?ws`, (message, channel) => got.push(["pattern", channel, message]));
  for (const number of times(100)) await redis.publish(`${PREFIX}news`, String(number));
  await until("all messages are there", () => got.length === 200);
  const wanted = times(100).flatMap((number) => [
    [`${PREFIX}news`, String(number)],
    ["pattern", `${PREFIX}news`, String(number)],
  ]);
  assert.deepEqual(got, wanted);
  await redis.unsubscribe(`${PREFIX}news`);
  await redis.pUnsubscribe(`${PREFIX}n?ws`);
}

async function sharded_channels() {
  const channels = times(6, (number) => `${PREFIX}shard:${number}`);
  const got = [];
  for (const channel of channels) await redis.sSubscribe(channel, (message, from) => got.push([from, message]));
  for (const channel of channels) assert.equal(await redis.sPublish(channel, channel.toUpperCase()), 1);
  await until("all messages are there", () => got.length === 6);
  assert.deepEqual(got.sort(), channels.map((channel) => [channel, channel.toUpperCase()]));
  for (const channel of channels) await redis.sUnsubscribe(channel);
}

async function reads_that_may_come_from_replicas() {
  const reader = await connect({ useReplicas: true });
  await redis.set(KEYS[3], "here");
  await until("it is read", async () => (await reader.get(KEYS[3])) === "here");
}

async function nobody_is_an_administrator_here() {
  const node = await redis.nodeClient(redis.masters[0]);
  await assert.rejects(node.clusterSaveConfig(), /NOPERM breakwater: /);
}

perform(
  [
    there_is_one_node_and_it_is_where_we_called,
    keys_of_all_shards,
    the_one_node_has_all_keys,
    transactions_and_pipelines,
    scripts,
    blocking_pops,
    subscriptions,
    sharded_channels,
    reads_that_may_come_from_replicas,
    nobody_is_an_administrator_here,
  ],
  () => clusters.forEach((cluster) => cluster.destroy()),
);
