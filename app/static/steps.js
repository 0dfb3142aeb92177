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

/** Decide a sentence; the kind of error of a change goes with the change. */
const decide = (one, state) => Object.assign(one, { state }, state === "accepted" ? { error: null } : {});

/** Return a study's state as it will be after a step; of steps whose result only the server knows, no more than that they can be undone. */
export function predict(state, step) {
  const sentences = state.sentences.map((one) => ({ ...one }));
  const one = sentences.find((other) => other.id === step.sentence);
  if (one && step.action === "accept") decide(one, finalState(one));
  else if (one && step.action === "reject") one.state = "rejected";
  else if (one && step.action === "undecide") one.state = "undecided";
  else if (one && step.action === "revert") decide(Object.assign(one, { text: one.draft }), "accepted");
  else if (one && step.action === "edit") {
    one.text = step.text;
    decide(one, step.done === false ? "undecided" : finalState(one));
  } else if (one && step.action === "remove") sentences.splice(sentences.indexOf(one), 1);
  else if (one && step.action === "annotate") one.error = step.category ? { category: step.category, significance: step.significance ?? null } : null;
  else if (step.action === "accept_rest") for (const each of sentences) if (each.state === "undecided") decide(each, finalState(each));
  if (step.action === "add") {
    const section = step.section ?? "findings";
    const after = sentences.findIndex((other) => other.id === step.after);
    const end = section === "impression" ? sentences.length : sentences.filter((other) => (other.section ?? "findings") === "findings").length;
    const number = 1 + Math.max(0, ...state.sentences.map((other) => Number(other.id.slice(1)) || 0));
    const added = (step.texts ?? [step.text]).map((text, at) => ({ id: `s${number + at}`, draft: null, text, state: "added", section, error: null }));
    sentences.splice(after < 0 ? end : after + 1, 0, ...added);
  }
  const labels = step.action === "label" ? state.labels?.map((each) => (each.finding === step.finding ? { ...each, corrected: step.value } : each)) : state.labels;
  const fields = step.action === "field" ? { ...state.fields, [step.field]: step.text } : state.fields;
  return { ...state, ...past(state, step.action), sentences, labels, fields, undecided: sentences.filter((other) => other.state === "undecided").length };
}

/** Return whether there will be a step to undo, and one to redo: a key that is pressed before the answer comes must not be lost. */
function past({ can_undo, can_redo }, action) {
  if (STATUS_STEPS.includes(action)) return { can_undo, can_redo };
  return { can_undo: action === "undo" ? can_undo : true, can_redo: action === "undo" || (action === "redo" && can_redo) };
}

/** Return the ids of the sentences that one state has and the one before has not. */
const added = (before, after) => after.sentences.filter((one) => !before.sentences.some(({ id }) => id === one.id)).map(({ id }) => id);

/** Return what a step changes, to find out later whether somebody else has changed it meanwhile. */
function target(state, { action, sentence, field, after, finding }) {
  const find = (id) => {
    const one = state.sentences.find((other) => other.id === id);
    return one ? [one.draft, one.text, one.state, ...(action === "annotate" ? [one.error ?? null] : [])] : null;
  };
  if (action === "field") return JSON.stringify(state.fields[field]);
  if (action === "add") return JSON.stringify(after === null || find(after) !== null);
  if (action === "label") return JSON.stringify(state.labels?.find((one) => one.finding === finding)?.corrected ?? null);
  if (sentence !== undefined) return JSON.stringify(find(sentence));
  return null; // undo, sign and the like: only on the very state that the reviewer saw
}

/**
 * Queue of all studies' steps. Events: "state" (detail: new state of a study), "trouble" (not saved yet, is repeated),
 * "saved" (after trouble), "merged" (saved on a state that others have changed), "conflict" ({state, count}) and "refused"
 * ({error, count}): `count` steps were not saved.
 */
export class Steps extends EventTarget {
  #queue = [];
  #known = new Map(); // study -> last state of the server
  #later = new Map(); // study -> state of the server that came while steps were on their way
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

  /** Take the server's state of a study; returns what the page shows of it. */
  note(state) {
    const known = this.#known.get(state.id);
    if (this.waiting(state.id)) {
      // the steps on their way were made on the known state: on a newer one, the server must be able to refuse them
      if (state !== known) this.#later.set(state.id, state);
      return this.ahead(known);
    }
    if (!known || known.revision <= state.revision) this.#known.set(state.id, state);
    return state;
  }

  /** Return a state with the steps that are still on their way. */
  ahead(state) {
    return this.#of(state.id).reduce((last, one) => predict(last, one.action), state);
  }

  /** Return what a step would change now: an editor asks when it is opened, and passes it as `base` with its text. */
  seen(study, action) {
    return target(this.ahead(this.#known.get(study)), action);
  }

  /** Return the number of steps of a study that the server does not have yet. */
  waiting(study) {
    return this.#of(study).length;
  }

  /**
   * Add a step of a study.
   * @param text id of the kept text that this step saves
   * @param base what the step changes, as its reviewer saw it; by default, as it is now
   * @returns a promise of the study's new state, or of null if the step was not saved.
   */
  add(study, action, { seconds = 0, text = null, base } = {}) {
    return new Promise((resolve) => {
      const before = this.ahead(this.#known.get(study));
      const now = target(before, action);
      this.#queue.push({
        study, action, seconds, text, resolve, id: identifier(), base: base ?? now, fits: base === undefined || base === now,
        made: added(before, predict(before, action)), merges: 0, quiet: false,
      });
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
        } else if (error.status === 401) while (this.#queue.length) this.#refuse(this.#queue[0], error);
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

  #sent({ study, action, seconds, id, fits }) {
    const revision = fits ? this.#known.get(study).revision : -1; // a state that never was: the answer is the newest state
    return { ...action, seconds, step: id, revision };
  }

  #over(step, state) {
    const before = this.#known.get(step.study);
    this.#known.set(step.study, state);
    this.#leave(step, state);
    if (step.text) unsent.drop(step.text);
    if (this.#troubled && !this.#queue.length) {
      this.#troubled = false;
      this.#tell("saved", { step, state });
    }
    if (step.merges && !step.quiet) this.#tell("merged", { step, state });
    // the answer to a step that was sent twice holds what others have changed since the first time
    if (state.revision > before.revision + 1) this.#follow(state);
  }

  /** Repeat a step on the study's new state if nobody has changed what it changes; else give it up. */
  #clash(step, error) {
    const { state } = error.body;
    this.#known.set(step.study, state);
    step.merges += 1;
    this.#follow(state, step.merges <= MOST_MERGES);
  }

  /**
   * Go on from a state that others have changed, with the steps up to the first one whose target is not as its reviewer
   * saw it. Those after it were made on a report that does not exist, and are given up.
   */
  #follow(state, possible = true) {
    const steps = this.#of(state.id);
    const names = new Map(); // id that the page gave to a sentence on its way -> id that the server will give it
    let [last, count] = [state, 0];
    for (const one of possible && ["pending", "draft"].includes(state.status) ? steps : []) {
      for (const key of ["sentence", "after"]) if (names.has(one.action[key])) one.action = { ...one.action, [key]: names.get(one.action[key]) };
      if (one.base === null || target(last, one.action) !== one.base) break;
      const next = predict(last, one.action);
      const ids = added(last, next);
      for (const [at, id] of one.made.entries()) names.set(id, ids[at]);
      Object.assign(one, { made: ids, fits: true });
      [last, count] = [next, count + 1];
    }
    const lost = steps.slice(count);
    for (const one of steps.slice(0, count)) one.quiet ||= lost.length > 0; // "merged" would replace the message of the conflict
    this.#giveUp(state.id, lost);
    if (lost.length) this.#tell("conflict", { state, count: lost.length });
  }

  /** Give up a step that the server refuses, and those after it, which were made on a report that does not exist. */
  #refuse(step, error) {
    const lost = this.#of(step.study);
    this.#giveUp(step.study, lost);
    this.#tell("refused", { error, count: lost.length });
  }

  #of(study) {
    return this.#queue.filter((one) => one.study === study);
  }

  #giveUp(study, lost) {
    for (const one of lost) this.#leave(one, null);
    this.#tell("state", this.#known.get(study));
    for (const { text } of lost) if (text) unsent.release(text);
  }

  #leave(step, state) {
    this.#queue = this.#queue.filter((one) => one !== step);
    if (state) this.#tell("state", state);
    this.#catchUp(step.study);
    step.resolve(state);
    if (STATUS_STEPS.includes(step.action.action)) this.#tell("status", { step, state });
    this.#tell("settled");
  }

  /** Show the newest state that came while steps were on their way, once there is none. */
  #catchUp(study) {
    const later = this.#later.get(study);
    if (!later || this.waiting(study)) return;
    this.#later.delete(study);
    if (later.revision < this.#known.get(study).revision) return;
    this.#known.set(study, later);
    this.#tell("state", later);
  }
}

/** Return a random name; crypto.randomUUID exists on secure origins only. */
export function identifier() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((one) => one.toString(16).padStart(2, "0")).join("");
}
