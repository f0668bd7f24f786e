/** Bytes that are text where text is wanted: `${body}`. */
export interface Bytes extends Uint8Array {
  text(): string;
  json(): unknown;
}

export interface Request {
  method: string;
  url: string;
  path: string;
  /** Without the question mark. */
  query: string;
  /** Names are in lower case. */
  headers: Record<string, string>;
  body: Bytes;
}

export interface Response {
  status?: number;
  headers?: Record<string, string>;
  body?: string | Uint8Array | ArrayBuffer;
}

export interface Message {
  topic: string;
  payload: Bytes;
}

export interface Tick {
  /** The trigger's id in dunlin.toml. */
  timer: string;
  /** When it was due, in milliseconds since 1970. */
  scheduled: number;
  /** When it was handed over, by the same clock. */
  actual: number;
  /** How many ticks before this one were left out. */
  missed: number;
  /** False while the board doesn't know the time. */
  clockTrusted: boolean;
}

export interface Outgoing {
  topic: string;
  payload?: string | Uint8Array | ArrayBuffer;
}

/** What is published when the event is done. */
export type Publish = Outgoing | Outgoing[] | void;
