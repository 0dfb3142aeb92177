// State of the page and the requests that change it. The server's state is authoritative; this is the page's only copy.
// A response belongs to the study that was open when it was requested: late responses are dropped.

export class CallError extends Error {
  constructor(status, body) {
    super(body.error || `the server answered ${status}`);
    this.status = status;
    this.body = body;
  }
}

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
    location.assign("/login");
    throw new CallError(401, { error: "the session has ended: log in again" });
  }
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new CallError(answer.status, content);
  return content;
}

const IDLE_MS = 60_000;

class Session extends EventTarget {
  study = null; // state of the open study
  me = null; // user, model, notice
  evidence = null; // {sentence, map} on display
  selected = null; // id of the selected sentence
  #epoch = 0;
  #actions = Promise.resolve();
  #stream = null;
  #active = 0;
  #last = performance.now();

  constructor() {
    super();
    for (const kind of ["pointerdown", "pointermove", "keydown", "wheel"]) {
      addEventListener(kind, () => this.#tick(), { passive: true, capture: true });
    }
    addEventListener("hashchange", () => {
      const id = location.hash.slice(1);
      if (id && id !== this.study?.id) this.open(id);
    });
  }

  /** Return the working time since the last call, in seconds; a pause counts for at most one minute. */
  #seconds() {
    this.#tick();
    const seconds = this.#active / 1000;
    this.#active = 0;
    return Math.round(seconds * 10) / 10;
  }

  #tick() {
    const now = performance.now();
    if (document.visibilityState === "visible") this.#active += Math.min(now - this.#last, IDLE_MS);
    this.#last = now;
  }

  #tell(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }

  say(text, kind = "info") {
    this.#tell("message", { text, kind });
  }

  fail(error) {
    if (error.name !== "AbortError") this.say(sentence(error.message) + (error.body?.hint ? ` (${error.body.hint})` : ""), "error");
  }

  async start() {
    const epoch = this.#epoch;
    await this.refreshMe();
    const wanted = location.hash.slice(1);
    const list = wanted ? null : await call("GET", "/api/studies?limit=50");
    if (epoch !== this.#epoch) return null; // an image has been opened in the meantime
    if (wanted) return this.open(wanted);
    const next = list.studies.find((one) => one.status === "pending" || one.status === "draft") || list.studies[0];
    return next ? this.open(next.id) : this.#show(null);
  }

  async refreshMe() {
    this.me = await call("GET", "/api/me");
    this.#tell("me");
    if (this.me.model.state === "loading") setTimeout(() => this.refreshMe().catch(() => {}), 1000);
  }

  /** Clear the page before a new study is requested: old and new content must never be shown together. */
  clear() {
    this.#epoch += 1;
    this.#stream?.close();
    this.#stream = null;
    this.#actions = Promise.resolve();
    this.#seconds();
    this.#show(null);
    return this.#epoch;
  }

  #show(state) {
    const other = state?.id !== this.study?.id;
    this.study = state;
    if (other) this.showEvidence(null);
    if (state) {
      if (location.hash.slice(1) !== state.id) history.replaceState(null, "", `#${state.id}`);
    } else if (location.hash) {
      history.replaceState(null, "", location.pathname + location.search);
    }
    document.body.dataset.study = state?.id ?? "";
    this.#tell("study", { other });
    if (state && ["queued", "running"].includes(state.draft?.state)) this.#follow();
  }

  select(id) {
    if (this.selected === id) return;
    this.selected = id;
    this.#tell("selected");
  }

  showEvidence(found) {
    this.evidence = found;
    this.#tell("evidence");
  }

  async open(id) {
    const epoch = this.clear();
    try {
      const state = await call("GET", `/api/studies/${encodeURIComponent(id)}`);
      if (epoch === this.#epoch) this.#show(state);
    } catch (error) {
      if (epoch === this.#epoch) this.fail(error);
    }
  }

  /** Open an image file as a new study and request its draft. */
  async upload(file, { force = false } = {}) {
    const epoch = this.clear();
    this.say("Reading the image …", "busy");
    try {
      const state = await call("POST", `/api/studies${force ? "?force=true" : ""}`, { body: file, headers: this.nameOf(file) });
      if (epoch !== this.#epoch) return;
      this.#show(state);
      this.say("");
      this.#tell("worklist");
      await this.#painted(); // show the image first: the model would slow its display down
      if (epoch !== this.#epoch) return;
      const queued = await this.#retry(epoch, () => call("POST", `/api/studies/${state.id}/draft`, { json: {} }));
      if (epoch !== this.#epoch) return;
      this.#show(queued);
      this.say("");
      this.#tell("worklist");
    } catch (error) {
      if (epoch !== this.#epoch) return;
      this.fail(error);
    }
  }

  /** Repeat a request until the server can be reached, so that nothing is lost while the connection is down. */
  async #retry(epoch, ask) {
    for (;;) {
      try {
        return await ask();
      } catch (error) {
        if (error.status !== 0 || epoch !== this.#epoch) throw error;
        this.fail(error);
        await new Promise((done) => setTimeout(done, 1500));
      }
    }
  }

  #painted() {
    return new Promise((done) => {
      this.addEventListener("painted", done, { once: true });
      setTimeout(done, 3000);
    });
  }

  painted() {
    this.#tell("painted");
  }

  nameOf(file) {
    return this.me?.keep_names ? { "x-file-name": encodeURIComponent(file.name) } : {};
  }

  /** Send a request about the open study and show the new state that it returns. */
  async #change(method, path, options, again = () => null) {
    const { id } = this.study ?? {};
    const epoch = this.#epoch;
    if (!id) return null;
    try {
      const state = await call(method, `/api/studies/${id}/${path}`, options);
      if (epoch === this.#epoch) this.#show(state);
      return state;
    } catch (error) {
      if (epoch !== this.#epoch) return null;
      if (error.status === 409 && error.body.state) {
        this.#show(error.body.state);
        const other = again(error.body.state);
        if (other) return this.#change(method, other, options);
        this.say("This study was changed elsewhere. Your last change was not saved: check the study and repeat it.", "error");
      } else {
        this.fail(error);
      }
      return null;
    }
  }

  /** Add a lateral or prior image to the study. */
  addContext(which, file) {
    return this.#context("POST", which, { body: file });
  }

  removeContext(which) {
    return this.#context("DELETE", which);
  }

  /** Change a lateral or prior image. A draft that has ended meanwhile is no conflict, another image is one. */
  #context(method, which, options) {
    const before = JSON.stringify(this.study?.[which]);
    const path = (state) => `${which}?revision=${state?.revision}`;
    const again = (state) => (JSON.stringify(state[which]) === before ? path(state) : null);
    return this.#change(method, path(this.study), options, again);
  }

  async write(replace = false, grounded = false) {
    const epoch = this.#epoch;
    await this.#actions; // save the last edits first
    if (epoch !== this.#epoch) return;
    await this.#change("POST", "draft", { json: { replace, grounded, revision: this.study?.revision } });
    this.#tell("worklist");
  }

  stop() {
    return this.#change("POST", "stop", { json: {} });
  }

  /** Send a step of the review. Steps are sent one at a time, each on the revision that the previous one returned. */
  act(action, options = {}) {
    const epoch = this.#epoch;
    const seconds = this.#seconds();
    this.#actions = this.#actions.then(async () => {
      if (epoch !== this.#epoch) return null;
      const json = { ...action, seconds, revision: this.study.revision };
      const state = await this.#change("POST", "actions", { json, ...options });
      if (["sign", "discard", "restore", "reopen"].includes(action.action)) this.#tell("worklist");
      return state;
    });
    return this.#actions;
  }

  #follow() {
    const { id } = this.study;
    if (this.#stream?.study === id) return;
    this.#stream?.close();
    const stream = new EventSource(`/api/studies/${id}/draft`);
    stream.study = id;
    this.#stream = stream;
    const close = () => {
      stream.close();
      if (this.#stream === stream) this.#stream = null;
    };
    stream.onmessage = async (event) => {
      const now = JSON.parse(event.data);
      if (this.#stream !== stream) return;
      if (now && ["queued", "running"].includes(now.state)) {
        this.#tell("draft", now);
        return;
      }
      close();
      const epoch = this.#epoch;
      try {
        const state = await this.#retry(epoch, () => call("GET", `/api/studies/${id}`));
        if (epoch !== this.#epoch) return;
        this.#show(state);
        this.#tell("worklist");
      } catch (error) {
        if (epoch === this.#epoch) this.fail(error);
      }
    };
    // the browser reconnects by itself, and the server continues writing the draft
    stream.onerror = () => {
      if (stream.readyState === EventSource.CLOSED && this.#stream === stream) {
        this.#stream = null;
        const epoch = this.#epoch;
        setTimeout(() => {
          if (epoch === this.#epoch && !this.#stream) this.#follow();
        }, 2000);
      }
    };
  }

  /** Show the attention map of a sentence, or of the encoder (sentence null); hide it if it is on display. */
  async toggleEvidence(sentence) {
    const shown = this.evidence;
    if (shown && shown.sentence === sentence) return this.showEvidence(null);
    const { id } = this.study ?? {};
    if (!id) return null;
    const epoch = this.#epoch;
    const query = sentence === null ? "of=encoder" : `sentence=${encodeURIComponent(sentence)}`;
    try {
      const map = await call("GET", `/api/studies/${id}/evidence?${query}`);
      if (epoch === this.#epoch) this.showEvidence({ sentence, map });
    } catch (error) {
      if (epoch === this.#epoch) this.fail(error);
    }
    return null;
  }
}

export function sentence(text) {
  return text ? text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".") : "";
}

/** Create an element with properties, listeners (on…) and children; strings become text, never HTML. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name in element && name !== "list") element[name] = value;
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function selectTab(name) {
  for (const tab of document.querySelectorAll("#tabs button[role=tab]")) {
    if (tab.textContent.trim() === name) tab.click();
  }
}

export const session = new Session();
