// State of the page and the requests that change it. The server's state is authoritative; this is the page's only copy.
// A response belongs to the study that was open when it was requested: late responses are dropped.
import { place } from "./address.js";
import { call } from "./calls.js";
import { Clock } from "./clock.js";
import { sentence } from "./dom.js";
import { followDraft } from "./following.js";
import { returning } from "./returning.js";
import { Steps } from "./steps.js";
import { unsent } from "./unsent.js";

export { CallError, call } from "./calls.js";
export { h, sentence } from "./dom.js";

const PLACES = ["worklist", "statistics"]; // hashes that are no study
const LINK = "uid="; // begin of a hash that names a study of the archive

class Session extends EventTarget {
  study = null; // state of the open study, with the steps that are on their way
  me = null; // user, model, notice
  settings = {}; // of the user
  evidence = null; // {sentence, map} on display
  selected = null; // id of the selected sentence
  neighbours = null; // {previous, next, next_undecided} of the open study
  list = {}; // query of the worklist on display, whose order next and previous follow
  steps = new Steps();
  #epoch = 0;
  #followed = null; // {study, stop} of the draft that is being written
  #clock = new Clock();
  #ahead = null; // state of the next study
  #setting = Promise.resolve(); // changes of settings on their way, one after the other

  constructor() {
    super();
    addEventListener("hashchange", () => this.#arrive(location.hash.slice(1)));
    this.#watchSteps();
  }

  #watchSteps() {
    const { steps } = this;
    const own = (detail) => detail && detail.id === this.study?.id;
    steps.addEventListener("state", ({ detail }) => own(detail) && this.show(detail));
    steps.addEventListener("status", () => this.#tell("worklist"));
    steps.addEventListener("trouble", ({ detail }) => this.say(`Not saved yet: ${detail.error.message}. Trying again …`, "error"));
    steps.addEventListener("saved", () => this.say("Everything is saved."));
    steps.addEventListener("merged", ({ detail }) => own(detail.state) && this.say("This study was also changed elsewhere; your change was added to it."));
    steps.addEventListener("conflict", ({ detail: { state, count } }) => {
      const lost = count === 1 ? "Your last change was not saved: check the study and repeat it." : `Your last ${count} changes were not saved: check the study and repeat them.`;
      this.say(`${own(state) ? "This study" : `The study ${state.name}`} was changed elsewhere. ${lost} A text that you typed is kept.`, own(state) ? "conflict" : "error");
    });
    steps.addEventListener("refused", ({ detail: { error, count } }) => {
      if (count === 1) this.fail(error);
      else this.say(`${sentence(error.message)} ${count - 1} later ${count === 2 ? "change was" : "changes were"} not saved either: check the study.`, "error");
    });
  }

  #tell(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }

  /** Show a message; `actions` are buttons {label, act}. Kinds: info, busy, error; of the open study also todo (until its report changes), conflict (until it is signed). */
  say(text, kind = "info", actions = []) {
    this.#tell("message", { text, kind, actions });
  }

  fail(error, actions = []) {
    if (error.name !== "AbortError") this.say(sentence(error.message) + (error.body?.hint ? ` (${error.body.hint})` : ""), "error", actions);
  }

  async start() {
    const epoch = this.#epoch;
    await this.refreshMe();
    unsent.use(this.me.user);
    await this.loadSettings().catch(() => {}); // asked for again before they are changed
    const wanted = (returning() || location.hash).slice(1) || unsent.all().at(-1)?.study;
    if (wanted?.startsWith(LINK)) return this.fetch(wanted.slice(LINK.length));
    const list = wanted && !PLACES.includes(wanted) ? null : await call("GET", "/api/studies?limit=50");
    if (epoch !== this.#epoch) return null; // an image has been opened in the meantime
    if (PLACES.includes(wanted)) this.#tell("tab", wanted);
    if (list === null) return this.open(wanted);
    const next = list.studies.find((one) => one.status === "pending" || one.status === "draft") || list.studies[0];
    if (next) return this.open(next.id, { quiet: PLACES.includes(wanted) });
    document.body.ariaBusy = "false";
    return this.show(null);
  }

  /** True if there is a model that writes drafts. */
  get writes() {
    return !["none", "imported"].includes(this.me?.model.state);
  }

  async refreshMe() {
    this.me = await call("GET", "/api/me");
    this.#tell("me");
    if (this.me.model.state === "loading") setTimeout(() => this.refreshMe().catch(() => {}), 1000);
  }

  /** Load the user's settings, as the last window has left them: before a list of them is changed, which is saved as a whole. */
  async loadSettings() {
    await this.#setting;
    this.settings = await call("GET", "/api/settings");
    this.#tell("settings");
  }

  /** Change settings of the user. */
  set(part) {
    this.settings = { ...this.settings, ...part };
    this.#tell("settings");
    this.#setting = this.#setting.then(() => call("PUT", "/api/settings", { json: part, keepalive: true })).catch((error) => this.fail(error));
    return this.#setting;
  }

  /** Leave the open study: answers about it that are still to come are dropped. */
  #leave() {
    this.#followed?.stop();
    this.#followed = null;
    this.#clock.take();
    return ++this.#epoch;
  }

  /** Show a state of a study, with the steps that are on their way. */
  show(found) {
    const state = found && this.steps.note(found);
    const other = state?.id !== this.study?.id;
    this.study = state;
    document.body.dataset.study = state?.id ?? "";
    if (other) {
      this.neighbours = null;
      this.showEvidence(null);
    }
    this.#tell("study", { other });
    if (state && ["queued", "running"].includes(state.draft?.state)) this.#follow();
    if (other && state) this.lookAhead();
  }

  #arrive(hash) {
    if (PLACES.includes(hash)) this.#tell("tab", hash);
    else if (hash.startsWith(LINK)) this.fetch(hash.slice(LINK.length));
    else if (hash) {
      this.#tell("tab", "review");
      if (hash !== this.study?.id) this.open(hash);
    }
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

  /** Open a study; `quiet` leaves the address as it is. */
  async open(id, { quiet = false } = {}) {
    const ready = this.#ahead?.id === id ? this.#ahead : null;
    const epoch = this.#leave();
    this.show(null); // old and new content must never be shown together
    document.body.ariaBusy = "true";
    if (!quiet) place(id);
    if (ready) this.show(ready); // and the server's present state, in case it has changed meanwhile
    try {
      const state = await call("GET", `/api/studies/${encodeURIComponent(id)}`);
      if (epoch === this.#epoch && state.revision !== this.study?.revision) this.show(state);
    } catch (error) {
      if (epoch !== this.#epoch) return;
      if (error.status === 404) place("", true);
      if (error.passing) this.fail(error, [{ label: "Try again", act: () => this.open(id, { quiet }) }]);
      else this.fail(error);
    } finally {
      if (epoch === this.#epoch) document.body.ariaBusy = "false";
    }
  }

  /** Open the next or previous open study of the worklist. */
  async go(where) {
    if (this.study && !this.neighbours) await this.lookAhead();
    const id = this.neighbours?.[where];
    return id ? this.open(id) : this.say(`There is no ${where === "previous" ? "earlier" : "further"} open study ${this.among}.`);
  }

  /** Return which studies next and previous go to, in words. */
  get among() {
    return ["status", "search", "mine", "finding"].some((name) => this.list[name]) ? "among those that the worklist's filter and search show" : "in the worklist";
  }

  /** Load the neighbours of the open study and the state of the next one. */
  async lookAhead() {
    const epoch = this.#epoch;
    const { id } = this.study;
    const query = new URLSearchParams(Object.entries(this.list).filter(([, value]) => value !== "" && value !== null && value !== undefined));
    try {
      const found = await call("GET", `/api/studies/${id}/neighbours?${query}`);
      if (epoch !== this.#epoch) return;
      this.neighbours = found;
      this.#tell("neighbours");
      const next = found.next_undecided ?? found.next;
      if (!next) return;
      const state = await call("GET", `/api/studies/${next}`);
      if (epoch !== this.#epoch) return;
      this.#ahead = state;
      this.#tell("ahead", state);
    } catch (error) {
      if (error.status) return; // without neighbours the worklist still opens every study
      await new Promise((done) => setTimeout(done, 2000));
      if (epoch === this.#epoch) await this.lookAhead();
    }
  }

  /** Open an image file as a new study and request its draft. The open study stays until the file has been read. */
  async upload(file, { force = false } = {}) {
    const epoch = this.#epoch;
    this.say("Reading the image …", "busy");
    let state;
    try {
      state = await call("POST", `/api/studies${force ? "?force=true" : ""}`, { body: file, headers: this.nameOf(file) });
    } catch (error) {
      const again = error.body?.forcible ? [{ label: "Read anyway", act: () => this.upload(file, { force: true }) }] : [];
      if (error.passing) again.push({ label: "Try again", act: () => this.upload(file, { force }) });
      const rest = this.study ? " The study on the page is still the one before." : "";
      this.say(`The file was not opened: ${sentence(error.message)}${rest}`, "error", again);
      return;
    }
    const text = state.joined ? "The image belongs to this study and was added to it." : "";
    await this.#opened(epoch, state, text, "The image has been read and is in the worklist.");
  }

  /** Open a study of the archive by its StudyInstanceUID; the server fetches what the user does not have. */
  async fetch(uid) {
    const epoch = this.#epoch;
    this.say("Looking for the study in the archive …", "busy");
    document.body.ariaBusy = "true";
    try {
      const state = await call("POST", "/api/archive/study", { json: { uid } });
      const { notes } = state;
      delete state.notes;
      await this.#opened(epoch, state, notes.map(sentence).join(" "), "The study is in the worklist.");
    } catch (error) {
      const again = error.passing ? [{ label: "Try again", act: () => this.fetch(uid) }] : [];
      this.say(`The study was not opened: ${sentence(error.message)}`, "error", again);
      if (epoch === this.#epoch) this.show(null);
    } finally {
      document.body.ariaBusy = "false";
    }
  }

  /** Show a study that was read, and request its draft; `late` is said if another study has been opened meanwhile. */
  async #opened(epoch, state, text, late) {
    this.#tell("worklist");
    if (epoch !== this.#epoch) return this.say(late);
    const mine = this.#leave();
    this.show(state);
    place(state.id);
    this.say(text);
    await this.#painted(); // show the image first: the model would slow its display down
    if (mine !== this.#epoch || this.study.draft || this.study.status !== "pending" || !this.writes) return; // the server writes the drafts of studies that an image joined
    try {
      const queued = await this.#retry(mine, () => call("POST", `/api/studies/${state.id}/draft`, { json: {} }));
      if (mine !== this.#epoch) return;
      this.show(queued);
      this.#tell("worklist");
    } catch (error) {
      if (mine === this.#epoch) this.fail(error);
    }
  }

  /** Repeat a request until the server can be reached, so that nothing is lost while the connection is down. */
  async #retry(epoch, ask) {
    for (let failed = false; ; failed = true) {
      try {
        const found = await ask();
        if (failed) this.say("");
        return found;
      } catch (error) {
        if (![0, 502, 504].includes(error.status) || epoch !== this.#epoch) throw error;
        this.say(`${sentence(error.message)} Trying again …`, "error");
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

  painted = () => this.#tell("painted");

  nameOf(file) {
    return this.me?.keep_names ? { "x-file-name": encodeURIComponent(file.name) } : {};
  }

  /** Send a request about the open study and show the new state that it returns. */
  async #change(method, path, options, again = () => null, actions = () => []) {
    const { id } = this.study ?? {};
    const epoch = this.#epoch;
    if (!id) return null;
    try {
      const state = await this.#retry(epoch, () => call(method, `/api/studies/${id}/${path}`, options));
      if (epoch === this.#epoch) this.show(state);
      return state;
    } catch (error) {
      if (epoch !== this.#epoch) return null;
      if (error.status === 409 && error.body.state) {
        this.show(error.body.state);
        const other = again(error.body.state);
        if (other) return this.#change(method, other, options, again, actions);
        this.say("This study was changed elsewhere. Your last change was not saved: check the study and repeat it.", "conflict");
      } else {
        this.fail(error, actions(error));
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
  #context(method, which, options, force = "") {
    const before = JSON.stringify(this.study?.[which]);
    const path = (state) => `${which}?revision=${state?.revision}${force}`;
    const again = (state) => (JSON.stringify(state[which]) === before ? path(state) : null);
    const actions = (error) => (error.body?.forcible ? [{ label: "Read anyway", act: () => this.#context(method, which, options, "&force=true") }] : []);
    return this.#change(method, path(this.study), options, again, actions);
  }

  async write(replace = false, grounded = false) {
    const epoch = this.#epoch;
    await this.steps.settled(this.study.id); // save the last edits first
    if (epoch !== this.#epoch) return;
    await this.#change("POST", "draft", { json: { replace, grounded, revision: this.study?.revision } });
    this.#tell("worklist");
  }

  stop() {
    return this.#change("POST", "stop", { json: {} });
  }

  /** Send a step of the review, of the open study if no other; see Steps.add. */
  act(action, { study = this.study?.id, ...more } = {}) {
    if (!study) return Promise.resolve(null);
    return this.steps.add(study, action, { seconds: this.#clock.take(), ...more });
  }

  #follow() {
    const { id } = this.study;
    if (this.#followed?.study === id) return;
    const epoch = this.#epoch;
    const ended = async () => {
      await this.steps.settled(id);
      if (epoch !== this.#epoch) return;
      this.#followed = null;
      try {
        const state = await this.#retry(epoch, () => call("GET", `/api/studies/${id}`));
        if (epoch !== this.#epoch) return;
        this.show(state);
        this.#tell("worklist");
      } catch (error) {
        if (epoch === this.#epoch) this.fail(error);
      }
    };
    this.#followed = { study: id, stop: followDraft(id, { part: (now) => this.#tell("draft", now), ended }) };
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

export const session = new Session();

/** Show a tab by its name: Review, Worklist or Statistics. */
export function selectTab(name) {
  session.dispatchEvent(new CustomEvent("tab", { detail: name.toLowerCase() }));
}
