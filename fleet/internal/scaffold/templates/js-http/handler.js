export async function handleRequest(request) { return { status: 200, body: "Hello World!" } }
