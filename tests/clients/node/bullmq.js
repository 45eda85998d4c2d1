"use strict";
// BullMQ: queues, workers, delayed jobs, retries, flows, schedules, events, workers found by their names.
//
// Each step of a job is a script of many keys; workers wait in BZPOPMIN, listeners of events in XREAD BLOCK.
// DRIVER chooses what it speaks to Redis with: "ioredis", its own choice, or "node-redis".

const assert = require("node:assert/strict");
const { EventEmitter } = require("node:events");
const Redis = require("ioredis");
const { createClient } = require("redis");
const { FlowProducer, Queue, QueueEvents, UnrecoverableError, Worker } = require("bullmq");
const { URL, PROTOCOL, until, times, perform, PATIENCE_MS } = require("./stage");

const PREFIX = "bullmq";
const opened = [];
// Each job that is waited for listens to its queue.
EventEmitter.defaultMaxListeners = 100;

// A connection as BullMQ wants it from an application: it never gives a command up by itself.
function connection() {
  if (process.env.DRIVER === "node-redis") return createClient({ url: URL, RESP: PROTOCOL });
  return new Redis(URL, { protocol: PROTOCOL, maxRetriesPerRequest: null });
}

// A queue, a worker, events…: closed at the end, the last first.
function open(Class, ...args) {
  const options = typeof args.at(-1) === "object" ? args.pop() : {};
  const link = connection();
  const one = new Class(...args, { connection: link, prefix: PREFIX, ...options });
  opened.push({ one, link });
  one.on("error", (error) => console.error(error));
  return one;
}

const end = (job, events) => job.waitUntilFinished(events, PATIENCE_MS);

async function jobs_have_results() {
  const queue = open(Queue, "sums");
  const events = open(QueueEvents, "sums");
  await events.waitUntilReady();
  open(Worker, "sums", async (job) => {
    await job.updateProgress(50);
    await job.log(`adding ${job.data.x}`);
    return job.data.x + job.data.y;
  }, { concurrency: 5 });
  const progress = [];
  events.on("progress", ({ jobId, data }) => progress.push([jobId, data]));
  const single = await queue.add("sum", { x: 40, y: 2 });
  assert.equal(await end(single, events), 42);
  await until("its progress was told", () => progress.length === 1);
  assert.deepEqual(progress, [[single.id, 50]]);
  assert.deepEqual((await queue.getJobLogs(single.id)).logs, ["adding 40"]);
  const many = await queue.addBulk(times(50, (number) => ({ name: "sum", data: { x: number, y: number } })));
  assert.deepEqual(await Promise.all(many.map((job) => end(job, events))), times(50, (number) => 2 * number));
  const counts = await queue.getJobCounts("waiting", "active", "completed", "failed");
  assert.deepEqual(counts, { waiting: 0, active: 0, completed: 51, failed: 0 });
}

async function a_waiting_worker_is_woken() {
  const queue = open(Queue, "idle");
  const events = open(QueueEvents, "idle");
  await events.waitUntilReady();
  const worker = open(Worker, "idle", async (job) => job.id);
  // The worker is there before the first job; each job comes when it is blocked again.
  await worker.waitUntilReady();
  for (const number of times(5)) {
    const job = await queue.add("wake", { number }, { jobId: `job-${number}` });
    assert.equal(await end(job, events), `job-${number}`);
  }
}

async function delayed_and_prioritised_jobs() {
  const queue = open(Queue, "delayed");
  const events = open(QueueEvents, "delayed");
  await events.waitUntilReady();
  const order = [];
  const before = Date.now();
  const late = await queue.add("late", {}, { delay: 700 });
  const later = await queue.add("later", {}, { delay: 900 });
  await queue.add("unimportant", {}, { priority: 9 });
  const important = await queue.add("important", {}, { priority: 1 });
  assert.equal(await late.getState(), "delayed");
  open(Worker, "delayed", async (job) => order.push(job.name));
  await Promise.all([late, later, important].map((job) => end(job, events)));
  assert.ok(Date.now() - before >= 900);
  assert.ok(order.indexOf("important") < order.indexOf("unimportant"));
  assert.ok(order.indexOf("late") < order.indexOf("later"));
  await until("all have run", () => order.length === 4);
}

async function failed_jobs_are_tried_again_with_backoff() {
  const queue = open(Queue, "shaky");
  const events = open(QueueEvents, "shaky");
  await events.waitUntilReady();
  open(Worker, "shaky", async (job) => {
    if (job.name === "hopeless") throw new UnrecoverableError("never");
    if (job.attemptsMade < 2) throw new Error("not yet");
    return "at last";
  });
  const shaky = await queue.add("shaky", {}, { attempts: 5, backoff: { type: "exponential", delay: 20 } });
  assert.equal(await end(shaky, events), "at last");
  assert.equal((await queue.getJob(shaky.id)).attemptsMade, 3);
  const hopeless = await queue.add("hopeless", {}, { attempts: 5 });
  await assert.rejects(end(hopeless, events), { message: "never" });
  assert.equal(await hopeless.getState(), "failed");
  const failed = await queue.getFailed();
  assert.deepEqual(failed.map((job) => [job.id, job.failedReason, job.attemptsMade]), [[hopeless.id, "never", 1]]);
}

async function flows_wait_for_their_children() {
  const events = open(QueueEvents, "parents");
  await events.waitUntilReady();
  open(Worker, "children", async (job) => job.data.number);
  open(Worker, "parents", async (job) => {
    const values = await job.getChildrenValues();
    return Object.values(values).reduce((sum, value) => sum + value);
  });
  const children = times(10, (number) => ({ name: "child", queueName: "children", data: { number } }));
  const flow = await open(FlowProducer).add({ name: "parent", queueName: "parents", children });
  assert.equal(await end(flow.job, events), 45);
}

async function schedules_repeat() {
  const queue = open(Queue, "scheduled");
  const seen = [];
  open(Worker, "scheduled", async (job) => seen.push(job.data.tick));
  await queue.upsertJobScheduler("every", { every: 100, limit: 3 }, { data: { tick: "tock" } });
  await until("it has run three times", () => seen.length === 3);
  await queue.removeJobScheduler("every");
  assert.deepEqual(seen, ["tock", "tock", "tock"]);
}

async function paused_limited_and_drained() {
  const queue = open(Queue, "limited");
  const events = open(QueueEvents, "limited");
  await events.waitUntilReady();
  await queue.pause();
  const jobs = await queue.addBulk(times(6, (number) => ({ name: "job", data: { number } })));
  let running = 0;
  let most = 0;
  open(Worker, "limited", async () => {
    most = Math.max(most, ++running);
    await new Promise((resolve) => setTimeout(resolve, 5));
    running--;
  }, { concurrency: 2, limiter: { max: 3, duration: 100 } });
  assert.equal(await queue.isPaused(), true);
  assert.equal(await queue.count(), 6);
  await queue.resume();
  await Promise.all(jobs.map((job) => end(job, events)));
  assert.ok(most <= 2);
  await queue.add("left over", {}, { delay: PATIENCE_MS });
  await queue.drain(true);
  await queue.obliterate({ force: true });
  assert.equal(await queue.count(), 0);
}

async function workers_are_found_by_their_names() {
  const queue = open(Queue, "named");
  const workers = times(3, (number) => open(Worker, "named", async () => {}, { name: `worker-${number}` }));
  await Promise.all(workers.map((worker) => worker.waitUntilReady()));
  await until("CLIENT LIST shows them all", async () => (await queue.getWorkersCount()) === 3);
  const names = (await queue.getWorkers()).map((worker) => worker.name ?? worker.rawname);
  assert.ok(names.every((name) => name), JSON.stringify(names));
  await workers[0].close();
  await until("one has left", async () => (await queue.getWorkersCount()) === 2);
}

async function close() {
  for (const { one, link } of opened.reverse()) {
    await one.close();
    if (link.isOpen || link.status === "ready") await link.quit();
  }
}

perform(
  [
    jobs_have_results,
    a_waiting_worker_is_woken,
    delayed_and_prioritised_jobs,
    failed_jobs_are_tried_again_with_backoff,
    flows_wait_for_their_children,
    schedules_repeat,
    paused_limited_and_drained,
    workers_are_found_by_their_names,
  ],
  close,
);
