import type { Request, Response } from "./glue/handler";

export async function handleRequest(request: Request): Promise<Response> {
  return { status: 200, body: "Hello World!" };
}
