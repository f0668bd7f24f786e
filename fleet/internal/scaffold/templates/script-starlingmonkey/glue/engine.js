// This engine waits for promises itself.
export const settle = (promise) => promise;
