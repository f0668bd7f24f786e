// Makes handleTick what the host calls: dunlin:timer/handler.
import { settle } from "./engine.js";
import { says } from "./bytes.js";
import { publish } from "./publish.js";
import { handleTick } from "../handler";

async function handle(tick) {
  try {
    publish(await handleTick({ ...tick, scheduled: Number(tick.scheduled), actual: Number(tick.actual) }));
  } catch (error) {
    throw says(error);
  }
}

export const handler = { handle: (tick) => settle(handle(tick)) };
