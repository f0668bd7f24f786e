// Bytes that are text where text is wanted: `${body}`, body.text(), body.json().
export class Bytes extends Uint8Array {
  static get [Symbol.species]() {
    return Uint8Array;
  }
  text() {
    return new TextDecoder().decode(this);
  }
  json() {
    return JSON.parse(this.text());
  }
  toString() {
    return this.text();
  }
}

// toBytes takes what a handler may give for a body or a payload.
export function toBytes(value) {
  if (value === undefined || value === null) return new Uint8Array();
  if (value instanceof Uint8Array) return value;
  if (value instanceof ArrayBuffer) return new Uint8Array(value);
  if (typeof value === "string") return new TextEncoder().encode(value);
  throw new TypeError(`a body or payload is a string or bytes, not ${typeof value}; JSON.stringify makes a string`);
}

// says makes text of an exception; engines leave its message out of its stack.
export function says(error) {
  return error?.stack ? `${error}\n${error.stack}` : String(error);
}
