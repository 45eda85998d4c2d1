"use strict";
// redlock: a lock held by the majority of independent Redis servers, one of which may be gone.
//
// REDIS_URL names all of them, separated by commas; the test lets the last one be without a server behind it.

const assert = require("node:assert/strict");
const Redis = require("ioredis");
const Redlock = require("redlock");
const { URL, PROTOCOL, PATIENCE_MS, times, perform } = require("./stage");

const RESOURCE = "redlock:resource";
// A server that is gone must fail its commands, not keep them: the majority decides. (The check that is switched off
// asks INFO and would connect again and again.)
const OPTIONS = { protocol: PROTOCOL, maxRetriesPerRequest: 1, enableOfflineQueue: false, enableReadyCheck: false };
const servers = URL.split(",").map((url) => new Redis(url, OPTIONS));
const patient = new Redlock(servers, { retryCount: -1, retryDelay: 10, retryJitter: 20 });
const impatient = new Redlock(servers, { retryCount: 0 });

async function servers_are_connected() {
  servers.forEach((server) => server.on("error", () => {}));
  const connected = (server) => new Promise((done) => server.once("ready", done));
  await Promise.all(servers.map((server) => server.status === "ready" || connected(server)));
  const gone = servers.at(-1);
  if (servers.length > 1) await assert.rejects(gone.get("anything"));
}

async function one_holder_at_a_time() {
  let [inside, entered] = [0, 0];
  await Promise.all(times(20, async () => {
    const lock = await patient.lock(RESOURCE, PATIENCE_MS);
    assert.equal(++inside, 1);
    await servers[0].incr("redlock:guarded");
    inside--;
    entered++;
    await lock.unlock();
  }));
  assert.equal(entered, 20);
  assert.equal(await servers[0].get("redlock:guarded"), "20");
}

async function who_does_not_hold_it_is_turned_away() {
  const held = await patient.lock(RESOURCE, PATIENCE_MS);
  await assert.rejects(impatient.lock(RESOURCE, PATIENCE_MS), { name: "LockError" });
  const extended = await held.extend(2 * PATIENCE_MS);
  assert.ok(await servers[0].pttl(RESOURCE) > PATIENCE_MS);
  await extended.unlock();
  await (await impatient.lock(RESOURCE, PATIENCE_MS)).unlock();
}

async function a_lock_ends_with_its_time() {
  await patient.lock(RESOURCE, 50);
  const next = await patient.lock(RESOURCE, PATIENCE_MS);
  await next.unlock();
}

async function without_a_majority_there_is_no_lock() {
  // Somebody else has it on most of them.
  const most = servers.slice(0, Math.floor(servers.length / 2) + 1);
  await Promise.all(most.map((server) => server.set(RESOURCE, "somebody else")));
  await assert.rejects(impatient.lock(RESOURCE, PATIENCE_MS), { name: "LockError" });
  assert.deepEqual(await Promise.all(most.map((server) => server.get(RESOURCE))), most.map(() => "somebody else"));
}

perform(
  [
    servers_are_connected,
    one_holder_at_a_time,
    who_does_not_hold_it_is_turned_away,
    a_lock_ends_with_its_time,
    without_a_majority_there_is_no_lock,
  ],
  () => servers.forEach((server) => server.disconnect()),
);
