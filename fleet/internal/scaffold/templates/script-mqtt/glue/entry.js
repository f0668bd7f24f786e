// Makes handleMessage what the host calls: wasi:messaging/incoming-handler.
import { settle } from "./engine.js";
import { Bytes, says } from "./bytes.js";
import { publish } from "./publish.js";
import { handleMessage } from "../handler";

async function handle(message) {
  try {
    publish(await handleMessage({ topic: message.topic() ?? "", payload: new Bytes(message.data()) }));
  } catch (error) {
    throw { tag: "other", val: says(error) };
  }
}

export const incomingHandler = { handle: (message) => settle(handle(message)) };
