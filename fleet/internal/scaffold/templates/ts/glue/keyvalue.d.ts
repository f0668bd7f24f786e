/** Adds to the number under a key of a store that dunlin.toml grants, and returns the sum. */
export function increment(key: string, by?: number, store?: string): number;
