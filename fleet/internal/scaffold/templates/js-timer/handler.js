import { increment } from "./glue/keyvalue.js";

// What it returns, one message or an array of them, is published; an exception undoes all, and the tick is tried again.
export async function handleTick(tick) {
  const n = increment("ticks");
  return { topic: "ticks", payload: `${tick.timer} ${n}` };
}
