// This engine waits for promises itself.
export const settle = (promise) => promise;

// The type of a 64-bit integer.
export const s64 = BigInt;
