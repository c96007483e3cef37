// What the page asks the service. Knows nothing of how it looks.

import { eventData } from "./events.js";
import { Kept } from "./kept.js";

const key = new Kept(() => sessionStorage, "slipstream-api-key");
const LIMIT_SECONDS = 5; // for answers that need no model

/** The service said no; `message` is its sentence. */
export class Refusal extends Error {
  constructor(status, detail, requestId) {
    super(detail?.message ?? `The service answered ${status}.`);
    this.status = status;
    this.param = detail?.param ?? null;
    this.requestId = requestId;
  }
}

/** Nobody answered, or the answer broke off. */
export class Lost extends Error {}

export function getKey() {
  return key.text;
}

export function setKey(text) {
  key.text = text;
}

/** Where a path of the service is, also behind a proxy that serves it under a path of its own. */
export function address(path) {
  return new URL(path, document.baseURI).href;
}

/** What `GET /status` says. */
export async function getStatus() {
  const response = await ask("status", { signal: AbortSignal.timeout(LIMIT_SECONDS * 1000) });
  return readJson(response);
}

/** Yields the chunks of a streamed chat completion until it is complete. */
export async function* streamChat(body, signal) {
  const headers = { "content-type": "application/json" };
  const response = await ask("v1/chat/completions", { method: "POST", body: JSON.stringify(body), headers, signal });
  try {
    for await (const data of eventData(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Refusal(response.status, chunk.error, response.headers.get("x-request-id"));
      yield chunk;
    }
  } catch (error) {
    if (error instanceof Refusal || signal.aborted) throw error;
  }
  throw new Lost("The connection was lost before the answer was complete.");
}

async function ask(path, options) {
  const headers = new Headers(options.headers);
  if (getKey()) headers.set("authorization", `Bearer ${getKey()}`);
  let response;
  try {
    response = await fetch(address(path), { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (options.signal?.aborted && error.name === "AbortError") throw error;
    throw new Lost("The service does not answer.");
  }
  if (response.ok) return response;
  const detail = (await readJson(response).catch(() => null))?.error;
  throw new Refusal(response.status, detail, response.headers.get("x-request-id"));
}

async function readJson(response) {
  try {
    return await response.json();
  } catch {
    throw new Lost("The service's answer could not be read.");
  }
}
