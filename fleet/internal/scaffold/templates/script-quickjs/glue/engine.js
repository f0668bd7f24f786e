// What QuickJS lacks as componentize-qjs sets it up for a world without async: a queue of promise jobs that is worked off
// before a call returns, a console, and text in UTF-8. build.mjs makes generators of async functions, so that every promise
// is one of these.
import { getStderr } from "wasi:cli/stderr@0.2.10";
import { getStdout } from "wasi:cli/stdout@0.2.10";

const jobs = [];
const Native = globalThis.Promise;

class QueuedPromise {
  #state = "pending";
  #value;
  #waiting = [];

  constructor(executor) {
    let called = false;
    const once = (settle) => (value) => {
      if (called) return;
      called = true;
      settle(value);
    };
    const reject = (reason) => this.#settle("rejected", reason);
    const resolve = (value) => {
      if (value === this) return reject(new TypeError("a promise can't be its own result"));
      let then;
      try {
        then = Object(value) === value ? value.then : undefined;
      } catch (error) {
        return reject(error);
      }
      if (typeof then !== "function") return this.#settle("fulfilled", value);
      jobs.push(() => {
        let done = false;
        const first = (settle) => (result) => {
          if (done) return;
          done = true;
          settle(result);
        };
        try {
          then.call(value, first(resolve), first(reject));
        } catch (error) {
          first(reject)(error);
        }
      });
    };
    try {
      executor(once(resolve), once(reject));
    } catch (error) {
      once(reject)(error);
    }
  }

  #settle(state, value) {
    this.#state = state;
    this.#value = value;
    for (const job of this.#waiting.splice(0)) jobs.push(job);
  }

  then(fulfilled, rejected) {
    return new QueuedPromise((resolve, reject) => {
      const job = () => {
        const ok = this.#state === "fulfilled";
        const handler = ok ? fulfilled : rejected;
        if (typeof handler !== "function") return (ok ? resolve : reject)(this.#value);
        try {
          resolve(handler(this.#value));
        } catch (error) {
          reject(error);
        }
      };
      if (this.#state === "pending") this.#waiting.push(job);
      else jobs.push(job);
    });
  }

  static get [Symbol.species]() {
    return this;
  }

  // result works off the queue, and gives the promise's value or throws its reason.
  static result(promise) {
    for (let job; (job = jobs.shift()); ) job();
    const p = promise instanceof QueuedPromise ? promise : null;
    if (!p) return promise;
    if (p.#state === "pending") throw new Error("the handler waits for what will never be: no promise is left that could go on");
    if (p.#state === "rejected") throw p.#value;
    return p.#value;
  }
}

// These work on any class of promises.
for (const name of ["all", "allSettled", "any", "race", "reject", "resolve", "try", "withResolvers"]) {
  if (Native[name]) QueuedPromise[name] = Native[name];
}
for (const name of ["catch", "finally"]) QueuedPromise.prototype[name] = Native.prototype[name];
globalThis.Promise = QueuedPromise;

export const settle = QueuedPromise.result;

// componentize-qjs takes a number for a 64-bit integer, and no BigInt.
export const s64 = Number;

globalThis.TextEncoder ??= class TextEncoder {
  encode(text = "") {
    const escaped = encodeURIComponent(String(text).toWellFormed());
    const bytes = [];
    for (let i = 0; i < escaped.length; i++) {
      if (escaped[i] !== "%") bytes.push(escaped.charCodeAt(i));
      else bytes.push(parseInt(escaped.slice(i + 1, (i += 2) + 1), 16));
    }
    return Uint8Array.from(bytes);
  }
};

globalThis.TextDecoder ??= class TextDecoder {
  decode(source = new Uint8Array()) {
    const bytes = source instanceof ArrayBuffer ? new Uint8Array(source) : source;
    let text = "";
    for (let i = 0; i < bytes.length; ) {
      const [point, length] = decodeOne(bytes, i);
      text += String.fromCodePoint(point);
      i += length;
    }
    return text.replace(/^\ufeff/, "");
  }
};

// decodeOne gives a code point and its length; U+FFFD for each byte that begins none.
function decodeOne(bytes, at) {
  const first = bytes[at];
  if (first < 0x80) return [first, 1];
  const length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  let point = first & (0xff >> (length + 1));
  if (first < 0xc2 || first > 0xf4) return [0xfffd, 1];
  for (let i = 1; i < length; i++) {
    if ((bytes[at + i] & 0xc0) !== 0x80) return [0xfffd, i];
    point = (point << 6) | (bytes[at + i] & 0x3f);
  }
  const least = [0, 0, 0x80, 0x800, 0x10000][length];
  if (point < least || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) return [0xfffd, 1];
  return [point, length];
}

function print(get, values) {
  const shown = (v) => (typeof v === "string" ? v : v instanceof Error ? `${v}\n${v.stack}` : typeof v === "object" ? JSON.stringify(v) : String(v));
  const bytes = new TextEncoder().encode(values.map(shown).join(" ") + "\n");
  const stream = get();
  for (let at = 0; at < bytes.length; at += 4096) stream.blockingWriteAndFlush(bytes.slice(at, at + 4096));
  stream[Symbol.dispose]();
}

globalThis.console ??= {};
for (const name of ["log", "info", "debug"]) console[name] ??= (...values) => print(getStdout, values);
for (const name of ["warn", "error", "trace"]) console[name] ??= (...values) => print(getStderr, values);
