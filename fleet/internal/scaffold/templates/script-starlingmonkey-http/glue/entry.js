// Makes handleRequest an answer to the fetch event. A handler that listens to that event itself exports no handleRequest.
import { Bytes, says, toBytes } from "./bytes.js";
import * as user from "../handler";

async function answer(request) {
  const url = new URL(request.url);
  const response = await user.handleRequest({
    method: request.method,
    url: request.url,
    path: url.pathname,
    query: url.search.slice(1),
    headers: Object.fromEntries(request.headers),
    body: new Bytes(await request.arrayBuffer()),
  });
  if (response instanceof Response) return response;
  const { status = 200, headers = {}, body } = response ?? {};
  return new Response(toBytes(body), { status, headers: { "content-type": "text/plain; charset=utf-8", ...headers } });
}

if (user.handleRequest) addEventListener("fetch", (event) => event.respondWith(answer(event.request)));
