// Requests to the server.
import { comeBack } from "./returning.js";

export class CallError extends Error {
  constructor(status, body) {
    super(body.error || `the server answered ${status}`);
    this.status = status;
    this.body = body;
  }

  /** Return true if the same request may succeed later: the server was not reached, is busy or has no room. */
  get passing() {
    return [0, 429, 502, 503, 504, 507].includes(this.status);
  }
}

/** The session has ended and the page is left for the login. */
export let leaving = false;

export async function call(method, path, { body, json, headers = {}, signal, keepalive } = {}) {
  const sent = { ...headers, "x-llava-rad": "1" };
  if (json !== undefined) sent["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, headers: sent, body: json === undefined ? body : JSON.stringify(json), signal, keepalive });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new CallError(0, { error: "the server cannot be reached" });
  }
  if (answer.status === 401) {
    leaving = true;
    comeBack(location.hash);
    location.assign("/login");
    throw new CallError(401, { error: "the session has ended: log in again" });
  }
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new CallError(answer.status, content);
  return content;
}
