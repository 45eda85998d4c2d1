"use strict";
// What every script of this folder stands on: where Redis is, patience, and a runner that names what failed.
//
// A script is a list of scenes, asynchronous functions that do one job of an application each and assert what came
// of it. The first that fails ends the script with its name, its stack and status 1. Nothing here sleeps for a fixed
// time in the hope that something has happened: `until` asks again.
//
// REDIS_URL is the address, PROTOCOL (2 or 3) the protocol where the library lets one choose.

const path = require("node:path");
const { setTimeout: pause } = require("node:timers/promises");

const URL = process.env.REDIS_URL;
const PROTOCOL = Number(process.env.PROTOCOL ?? 3);
// How long anything may take that should happen at once: the machine may be busy with others.
const PATIENCE_MS = 60_000;

// Asks until the answer is true, and returns it.
async function until(what, probe) {
  const deadline = Date.now() + PATIENCE_MS;
  while (Date.now() < deadline) {
    const answer = await probe();
    if (answer) return answer;
    await pause(10);
  }
  throw new Error(`waited ${PATIENCE_MS} ms in vain: ${what}`);
}

// The numbers from 0 to count - 1, each through `make`.
function times(count, make = (number) => number) {
  return Array.from({ length: count }, (_, number) => make(number));
}

// Runs the scenes in order, then `close`, and ends the process.
async function perform(scenes, close) {
  const name = path.basename(process.argv[1]);
  const fail = (where, error) => {
    console.error(error);
    console.error(`${name}: FAILED in ${where}`);
    process.exit(1);
  };
  let current = "loading";
  process.on("uncaughtException", (error) => fail(current, error));
  for (const scene of scenes) {
    current = scene.name;
    console.log(`${name}: ${current}`);
    const timer = setTimeout(() => fail(current, `no end after ${2 * PATIENCE_MS} ms`), 2 * PATIENCE_MS);
    try {
      await scene();
    } catch (error) {
      fail(current, error);
    }
    clearTimeout(timer);
  }
  await close();
  console.log(`${name}: all ${scenes.length} scenes passed`);
}

module.exports = { URL, PROTOCOL, PATIENCE_MS, until, times, perform };
