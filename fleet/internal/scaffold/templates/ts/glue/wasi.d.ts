declare module "wasi:keyvalue/store@0.2.0-draft2" {
  export class Bucket {
    get(key: string): Uint8Array | undefined;
    set(key: string, value: Uint8Array): void;
    delete(key: string): void;
    exists(key: string): boolean;
    listKeys(cursor?: string): { keys: string[]; cursor?: string };
  }
  /** dunlin.toml grants stores by their names in key_value_stores. */
  export function open(name: string): Bucket;
}

declare module "wasi:keyvalue/atomics@0.2.0-draft2" {
  import type { Bucket } from "wasi:keyvalue/store@0.2.0-draft2";
  /** Adds delta, and returns the sum. */
  export function increment(bucket: Bucket, key: string, delta: bigint): bigint;
}
