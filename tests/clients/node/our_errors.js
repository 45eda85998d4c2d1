"use strict";
// ioredis and node-redis meet Breakwater's own errors, and say what they saw.
//
// CASES has a line for each error: its name, where it comes, whether anything is served there, a command, an INCR, and
// what follows that in one pipeline. LIBRARY is "ioredis" or "node-redis".

const Redis = require("ioredis");
const { createClient } = require("redis");
const { until, perform } = require("./stage");

const CASES = process.env.CASES.split("\n").map((line) => line.split("\t"));

const ioredis = {
  connect: (url) => {
    // Its ready check is INFO, which a cluster refuses while one of its shards is away: nothing would be sent at all.
    const client = new Redis(url, { enableReadyCheck: false });
    client.on("error", () => {});
    return client;
  },
  one: (client, words) => client.call(...words),
  pipeline: async (client, lines) => {
    const pipeline = client.pipeline();
    for (const words of lines) pipeline.call(...words);
    const failed = (await pipeline.exec()).find(([error]) => error);
    if (failed) throw failed[0];
  },
  end: (client) => client.disconnect(),
};

const nodeRedis = {
  connect: async (url) => {
    const client = createClient({ url });
    client.on("error", () => {});
    return await client.connect();
  },
  one: (client, words) => client.sendCommand(words),
  pipeline: async (client, lines) => {
    const pipeline = client.multi();
    for (const words of lines) pipeline.addCommand(words);
    await pipeline.execAsPipeline();
  },
  end: (client) => client.destroy(),
};

const library = process.env.LIBRARY === "ioredis" ? ioredis : nodeRedis;

// The error of a piece of work, or undefined.
async function failure(work) {
  try {
    await work();
  } catch (error) {
    return error;
  }
}

// What Breakwater calls this connection; asked again, because it may be lost at this moment.
async function id(client) {
  let id;
  const ask = async () => {
    id = await library.one(client, ["CLIENT", "ID"]);
  };
  await until("it has a number", async () => !(await failure(ask)));
  return id;
}

async function meets_our_errors() {
  for (const [name, url, served, alone, counted, behind] of CASES) {
    for (const [shape, lines] of [["alone", [alone]], ["behind", [counted, behind]]]) {
      const client = await library.connect(url);
      const ready = () => library.one(client, ["GET", "{bar}ready"]);
      if (served === "served") await until("it is served", async () => !(await failure(ready)));
      const before = await id(client);
      const words = lines.map((line) => line.split(" "));
      const send = shape === "alone" ? () => library.one(client, words[0]) : () => library.pipeline(client, words);
      const error = await failure(send);
      if (!error) throw new Error(`${name} was not refused`);
      const after = await id(client);
      const kept = before === after ? "kept" : "new";
      console.log(["seen", name, shape, error.constructor.name, kept].join("\t"));
      library.end(client);
    }
  }
}

perform([meets_our_errors], async () => process.exit(0));
