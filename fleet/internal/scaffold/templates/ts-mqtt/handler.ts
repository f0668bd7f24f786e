import { increment } from "./glue/keyvalue.js";
import type { Message, Publish } from "./glue/handler";

const limit = 30;

// What it returns, one message or an array of them, is published; an exception undoes all, and the message is tried again.
export async function handleMessage({ topic, payload }: Message): Promise<Publish> {
  const value = Number(payload.text());
  if (Number.isNaN(value)) throw new Error(`read "${payload}": not a number`);
  if (value <= limit) return;
  const alerts = increment("alerts");
  return { topic: `alerts/${topic}`, payload: `${payload} is above ${limit}, alert ${alerts}` };
}
