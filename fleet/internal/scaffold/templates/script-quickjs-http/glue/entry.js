// Makes handleRequest what the host calls: wasi:http/incoming-handler.
import { Fields, OutgoingBody, OutgoingResponse, ResponseOutparam } from "wasi:http/types@0.2.10";
import { settle } from "./engine.js";
import { Bytes, toBytes } from "./bytes.js";
import { handleRequest } from "../handler";

const text = (bytes) => new TextDecoder().decode(bytes);

// A stream of WASI moves at most this many bytes in a call.
const chunk = 4096;

function read(request) {
  const body = request.consume();
  const stream = body.stream();
  const parts = [];
  let size = 0;
  for (;;) {
    try {
      const part = stream.blockingRead(chunk);
      parts.push(part);
      size += part.length;
    } catch (error) {
      if ((error.payload ?? error).tag === "closed") break;
      throw error;
    }
  }
  stream[Symbol.dispose]();
  body[Symbol.dispose]();
  const whole = new Bytes(size);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function open(request) {
  const method = request.method();
  const target = request.pathWithQuery() ?? "/";
  const [path, ...rest] = target.split("?");
  const headers = {};
  for (const [name, value] of request.headers().entries()) {
    headers[name] = name in headers ? `${headers[name]}, ${text(value)}` : text(value);
  }
  const scheme = request.scheme()?.tag === "HTTPS" ? "https" : "http";
  return {
    method: method.tag === "other" ? method.val : method.tag.toUpperCase(),
    url: `${scheme}://${request.authority() ?? headers.host ?? ""}${target}`,
    path,
    query: rest.join("?"),
    headers,
    body: read(request),
  };
}

function answer(out, { status = 200, headers = {}, body } = {}) {
  const all = { "content-type": "text/plain; charset=utf-8" };
  for (const name of Object.keys(headers)) all[name.toLowerCase()] = headers[name];
  const response = new OutgoingResponse(Fields.fromList(Object.entries(all).map(([name, value]) => [name, toBytes(String(value))])));
  response.setStatusCode(status);
  const bytes = toBytes(body);
  const outgoing = response.body();
  ResponseOutparam.set(out, { tag: "ok", val: response });
  if (bytes.length > 0) {
    const stream = outgoing.write();
    for (let at = 0; at < bytes.length; at += chunk) stream.blockingWriteAndFlush(bytes.slice(at, at + chunk));
    stream[Symbol.dispose]();
  }
  OutgoingBody.finish(outgoing, null);
}

export const incomingHandler = {
  handle(request, out) {
    answer(out, settle(handleRequest(open(request))));
  },
};
