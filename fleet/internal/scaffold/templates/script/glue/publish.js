// Publishes what a handler returned: nothing, a message { topic, payload }, or an array of these.
import { Client, Message } from "wasi:messaging/types@0.2.0-draft";
import { send } from "wasi:messaging/producer@0.2.0-draft";
import { toBytes } from "./bytes.js";

export function publish(returned) {
  if (returned === undefined || returned === null) return;
  const client = Client.connect("default");
  for (const { topic, payload } of Array.isArray(returned) ? returned : [returned]) {
    send(client, topic, new Message(toBytes(payload)));
  }
}
