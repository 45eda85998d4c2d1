"use strict";
// ioredis and node-redis with Sentinel: they ask for the master, are told where they called, and work there.

const assert = require("node:assert/strict");
const Redis = require("ioredis");
const { createSentinel } = require("redis");
const { URL: address, PROTOCOL, times, perform } = require("./stage");

const PREFIX = "node-sentinel:";
const { hostname: host, port } = new URL(address);
const where = { host, port: Number(port) };
const closers = [];

async function ioredis_finds_the_master() {
  const redis = new Redis({ sentinels: [where], name: "mymaster", protocol: PROTOCOL });
  closers.push(() => redis.disconnect());
  assert.equal(await redis.set(`${PREFIX}k`, "v"), "OK");
  assert.equal(await redis.get(`${PREFIX}k`), "v");
  assert.deepEqual([redis.stream.remoteAddress, redis.stream.remotePort], [where.host, where.port]);
  const replies = await Promise.all(times(100, () => redis.incr(`${PREFIX}n`)));
  assert.deepEqual(replies, times(100, (number) => number + 1));
}

async function ioredis_that_listens_for_failovers() {
  const redis = new Redis({ sentinels: [where], name: "mymaster", failoverDetector: true, protocol: PROTOCOL });
  closers.push(() => redis.disconnect());
  assert.equal(await redis.get(`${PREFIX}k`), "v");
}

async function node_redis_finds_the_master() {
  const sentinel = createSentinel({ name: "mymaster", sentinelRootNodes: [where], RESP: PROTOCOL });
  sentinel.on("error", (error) => console.error(error));
  await sentinel.connect();
  closers.push(() => sentinel.destroy());
  assert.equal(await sentinel.set(`${PREFIX}nr`, "v"), "OK");
  assert.equal(await sentinel.get(`${PREFIX}nr`), "v");
  const replies = await sentinel.multi().incr(`${PREFIX}m`).incr(`${PREFIX}m`).exec();
  assert.deepEqual(replies, [1, 2]);
}

perform([ioredis_finds_the_master, ioredis_that_listens_for_failovers, node_redis_finds_the_master], () =>
  closers.forEach((close) => close()),
);
