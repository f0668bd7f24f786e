// Counters in a store that dunlin.toml grants.
import * as atomics from "wasi:keyvalue/atomics@0.2.0-draft2";
import { open } from "wasi:keyvalue/store@0.2.0-draft2";
import { s64 } from "./engine.js";

// increment adds to the number under a key, and returns the sum.
export function increment(key, by = 1, store = "default") {
  return Number(atomics.increment(open(store), key, s64(by)));
}
