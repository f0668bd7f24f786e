import { increment } from "wasi:keyvalue/atomics@0.2.0-draft2";
import { open } from "wasi:keyvalue/store@0.2.0-draft2";

// What it returns, one message or an array of them, is published; an exception undoes all, and the tick is tried again.
export async function handleTick(tick) {
  const n = increment(open("default"), "ticks", 1n);
  return { topic: "ticks", payload: `${tick.timer} ${n}` };
}
