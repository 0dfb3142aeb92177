// Steps of a review on their way to the server: sent one at a time, each on the revision that the one before returned,
// repeated until the server has them, and shown in advance.
import { call, leaving } from "./calls.js";
import { unsent } from "./unsent.js";

const WAITS_MS = [300, 700, 1500, 3000, 5000];
const MOST_MERGES = 5;
const STATUS_STEPS = ["sign", "discard", "restore", "reopen"];

/** Return true if a report's sentence is the reviewer's own. */
export const isOwn = (one) => one.draft === null;

/** Return the state that a sentence has when its text is final. */
export const finalState = (one) => (isOwn(one) ? "added" : one.text === one.draft ? "accepted" : "edited");

/** Return a study's state as it will be after a step; steps whose result only the server knows change nothing. */
export function predict(state, step) {
  const sentences = state.sentences.map((one) => ({ ...one }));
  const one = sentences.find((other) => other.id === step.sentence);
  if (one && step.action === "accept") one.state = finalState(one);
  else if (one && step.action === "reject") one.state = "rejected";
  else if (one && step.action === "undecide") one.state = "undecided";
  else if (one && step.action === "revert") Object.assign(one, { text: one.draft, state: "accepted" });
  else if (one && step.action === "edit") Object.assign(one, { text: step.text, state: "" });
  else if (one && step.action === "remove") sentences.splice(sentences.indexOf(one), 1);
  else if (one && step.action === "annotate") one.error = step.category ? { category: step.category, significance: step.significance ?? null } : null;
  else if (step.action === "accept_rest") for (const each of sentences) if (each.state === "undecided") each.state = finalState(each);
  if (one?.state === "") one.state = step.done === false ? "undecided" : finalState(one);
  if (step.action === "add") {
    const section = step.section ?? "findings";
    const after = sentences.findIndex((other) => other.id === step.after);
    const end = section === "impression" ? sentences.length : sentences.filter((other) => (other.section ?? "findings") === "findings").length;
    const number = 1 + Math.max(0, ...state.sentences.map((other) => Number(other.id.slice(1)) || 0));
    const added = (step.texts ?? [step.text]).map((text, at) => ({ id: `s${number + at}`, draft: null, text, state: "added", section, error: null }));
    sentences.splice(after < 0 ? end : after + 1, 0, ...added);
  }
  const labels = step.action === "label" ? state.labels?.map((each) => (each.finding === step.finding ? { ...each, corrected: step.value } : each)) : state.labels;
  return { ...state, sentences, labels, undecided: sentences.filter((other) => other.state === "undecided").length };
}

/** Return what a step changes, to find out later whether somebody else has changed it meanwhile. */
function target(state, { action, sentence, field, after, finding }) {
  const find = (id) => {
    const one = state.sentences.find((other) => other.id === id);
    return one ? [one.draft, one.text, one.state] : null;
  };
  if (action === "field") return JSON.stringify(state.fields[field]);
  if (action === "add") return JSON.stringify(after === null || find(after) !== null);
  if (action === "label") return JSON.stringify(state.labels?.find((one) => one.finding === finding)?.corrected ?? null);
  if (sentence !== undefined) return JSON.stringify(find(sentence));
  return null; // undo, sign and the like: only on the very state that the reviewer saw
}

/**
 * Queue of all studies' steps. Events: "state" (detail: new state of a study), "trouble" (not saved yet, is repeated),
 * "saved" (after trouble), "conflict" and "refused" (not saved; detail {step, state, error}).
 */
export class Steps extends EventTarget {
  #queue = [];
  #known = new Map(); // study -> last state of the server
  #names = new Map(); // study and expected id of an added sentence -> the id that the server gave it
  #running = false;
  #troubled = false;
  #wake = () => {};

  constructor() {
    super();
    addEventListener("online", () => this.#wake());
    addEventListener("beforeunload", (event) => {
      if (this.#queue.length && !leaving) event.preventDefault();
    });
  }

  /** Take the server's state of a study. */
  note(state) {
    const known = this.#known.get(state.id);
    if (!known || known.revision <= state.revision) this.#known.set(state.id, state);
  }

  /** Return a state with the steps that are still on their way. */
  ahead(state) {
    return this.#queue.filter((one) => one.study === state.id).reduce((last, one) => predict(last, one.action), state);
  }

  /** Return the number of steps of a study that the server does not have yet. */
  waiting(study) {
    return this.#queue.filter((one) => one.study === study).length;
  }

  /**
   * Add a step of a study.
   * @param text id of the kept text that this step saves
   * @returns a promise of the study's new state, or of null if the step was not saved.
   */
  add(study, action, { seconds = 0, text = null } = {}) {
    return new Promise((resolve) => {
      const before = this.ahead(this.#known.get(study));
      this.#queue.push({ study, action, seconds, text, resolve, id: identifier(), base: target(before, action), merges: 0 });
      this.#tell("state", this.#known.get(study));
      this.#run();
    });
  }

  /** Wait until all steps of a study, or of all, are saved or given up. */
  async settled(study = null) {
    while (study ? this.waiting(study) : this.#queue.length) await new Promise((done) => this.addEventListener("settled", done, { once: true }));
  }

  #tell(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }

  async #run() {
    if (this.#running) return;
    this.#running = true;
    let tries = 0;
    while (this.#queue.length) {
      const [step] = this.#queue;
      try {
        const state = await call("POST", `/api/studies/${step.study}/actions`, { json: this.#sent(step), keepalive: true });
        tries = 0;
        this.#over(step, state);
      } catch (error) {
        if (error.passing) {
          this.#troubled = true;
          this.#tell("trouble", { step, error });
          await this.#pause(WAITS_MS[Math.min(tries++, WAITS_MS.length - 1)]);
        } else if (error.status === 401) for (const one of this.#queue) this.#refuse(one, error);
        else if (error.status === 409 && error.body.state) this.#clash(step, error);
        else this.#refuse(step, error);
      }
    }
    this.#running = false;
  }

  #pause(milliseconds) {
    return new Promise((done) => {
      this.#wake = done;
      setTimeout(done, milliseconds);
    });
  }

  #sent({ study, action, seconds, id }) {
    const json = { ...action, seconds, step: id, revision: this.#known.get(study).revision };
    for (const key of ["sentence", "after"]) json[key] = this.#names.get(`${study} ${json[key]}`) ?? json[key];
    return json;
  }

  #over(step, state) {
    const before = this.#known.get(step.study);
    if (step.action.action === "add") {
      const added = (of) => of.sentences.filter((one) => !before.sentences.some(({ id }) => id === one.id)).map(({ id }) => id);
      const given = added(state);
      for (const [at, expected] of added(predict(before, step.action)).entries()) {
        if (given[at] && given[at] !== expected) this.#names.set(`${step.study} ${expected}`, given[at]);
      }
    }
    this.#known.set(step.study, state);
    this.#leave(step, state);
    if (step.text) unsent.drop(step.text);
    if (this.#troubled && !this.#queue.length) {
      this.#troubled = false;
      this.#tell("saved", { step, state });
    }
    if (step.merges) this.#tell("merged", { step, state });
  }

  /** Repeat a step on the study's new state if nobody has changed what it changes; else give it up. */
  #clash(step, error) {
    const { state } = error.body;
    this.#known.set(step.study, state);
    if (step.base !== null && step.merges < MOST_MERGES && ["pending", "draft"].includes(state.status) && target(state, step.action) === step.base) {
      step.merges += 1;
      this.#tell("state", state);
      return;
    }
    // later steps were made on a report that does not exist
    const lost = this.#queue.filter((one) => one.study === step.study);
    for (const one of lost) this.#leave(one, null);
    this.#tell("state", state);
    for (const { text } of lost) if (text) unsent.release(text);
    this.#tell("conflict", { step, state, error });
  }

  #refuse(step, error) {
    this.#leave(step, null);
    const known = this.#known.get(step.study);
    if (known) this.#tell("state", known);
    if (step.text) unsent.release(step.text);
    this.#tell("refused", { step, error });
  }

  #leave(step, state) {
    this.#queue = this.#queue.filter((one) => one !== step);
    if (state) this.#tell("state", state);
    step.resolve(state);
    if (STATUS_STEPS.includes(step.action.action)) this.#tell("status", { step, state });
    this.#tell("settled");
  }
}

/** Return a random name; crypto.randomUUID exists on secure origins only. */
export function identifier() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((one) => one.toString(16).padStart(2, "0")).join("");
}
