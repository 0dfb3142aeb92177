// One sentence of the report: its state in the margin, its text with the differences from the draft, and its buttons.
import { describeBoxes } from "./overlays.js";
import { titleOf } from "./annotations.js";
import { wordDiff } from "./diff.js";
import { h, icon, sentence as asSentence } from "./dom.js";
import { textBox } from "./editor.js";
import { hint } from "./keys.js";
import { lines } from "./macros.js";
import { session } from "./session.js";
import { isOwn } from "./steps.js";
import { unsent } from "./unsent.js";

export const STATES = { undecided: "to decide", accepted: "accepted", edited: "edited", rejected: "rejected", added: "added" };

/** Describe a sentence besides its text and state: boxes, confidence, kind of error. */
function notes(one) {
  const { category, significance } = one.error ?? {};
  const sure = one.confidence ?? null;
  return [
    one.state === "undecided" && one.text !== one.draft ? "not finished" : "",
    describeBoxes(one), sure === null ? "" : `confidence ${Math.round(100 * sure)} %`,
    titleOf("category", category), titleOf("significance", significance),
  ].filter(Boolean);
}

/**
 * A row of the report. `pane` is the report: `deciding()`, `select(id)` and `decide(row, action, moves)`.
 * All buttons keep their places; those without a meaning are disabled, so that a second click never meets another one.
 */
export class Row {
  constructor(one, pane) {
    this.id = one.id;
    this.pane = pane;
    this.number = h("span", { class: "lr-number-of", "aria-hidden": "true" });
    this.mark = h("button", { class: "lr-mark", tabIndex: -1, onclick: (event) => this.click(event, "mark") });
    this.text = h("span", { class: "lr-text" });
    this.notes = h("span", { class: "lr-notes" });
    this.body = h("div", { class: "lr-body", ondblclick: () => this.edit() }, this.text, this.notes);
    this.buttons = Object.fromEntries(["accept", "edit", "reject"].map((name) => [name,
      h("button", { class: `lr-slot lr-do-${name}`, tabIndex: -1, onclick: (event) => this.click(event, name) }, icon(name))]));
    this.tools = h("span", { class: "lr-tools", role: "group" }, ...Object.values(this.buttons));
    this.element = h("li", { tabIndex: -1, dataset: { sentence: one.id }, onfocusin: () => pane.select(this.id), onpointerdown: () => pane.select(this.id) },
      h("span", { class: "lr-margin" }, this.mark, this.number), this.body, this.tools);
    this.box = null;
  }

  /** Act on a click. The second click of a double click does nothing. */
  click(event, name) {
    if (event.detail > 1) return;
    const moves = event.detail === 0; // by keyboard: go on to the next sentence
    if (name === "mark") {
      if (this.one.state === "undecided") this.pane.decide(this, "accept", moves);
      else this.element.focus();
    } else if (name === "edit") this.edit();
    else this.pane.decide(this, name, moves);
  }

  update(one, number, count) {
    this.one = one;
    if (this.box && one.draft !== this.draft) this.box.end("replaced"); // another draft: the text belongs to no sentence of it
    const can = this.pane.deciding();
    const own = isOwn(one);
    const changed = !own && one.text !== one.draft;
    this.number.textContent = String(number);
    const text = one.state === "rejected" || !changed ? [one.text] : wordDiff(one.draft, one.text).flatMap(([kind, part]) => [kind === "same" ? part : h(kind, {}, part), " "]);
    this.text.replaceChildren(...text);
    const said = notes(one);
    this.notes.replaceChildren(...said.map((note) => h("span", { class: "lr-note" }, note)));
    this.mark.replaceChildren(icon({ accepted: "accept", edited: "edit", rejected: "reject", added: "added", undecided: "undecide" }[one.state]));
    this.mark.disabled = !can && one.state === "undecided";
    this.mark.title = one.state === "undecided" ? hint("accept", "To decide: accept") : asSentence(STATES[one.state]).slice(0, -1);
    this.mark.setAttribute("aria-label", one.state === "undecided" ? `Accept: ${one.text}` : `${this.mark.title}: ${one.text}`);
    this.element.className = `lr-sentence lr-is-${one.state}`;
    this.element.setAttribute("aria-label", `Sentence ${number} of ${count}, ${[STATES[one.state], ...said].join(", ")}: ${one.text}`);
    const labels = {
      accept: ["Accept", can && ["undecided", "rejected"].includes(one.state)],
      edit: ["Edit", can],
      reject: [own ? "Remove" : "Reject", can && one.state !== "rejected"],
    };
    for (const [name, [label, possible]] of Object.entries(labels)) {
      const button = this.buttons[name];
      button.disabled = !possible;
      button.title = hint(name, label);
      button.setAttribute("aria-label", `${label}: ${one.text}`);
    }
  }

  edit(text = this.one.text) {
    if (!this.pane.deciding() || this.box) return;
    const saved = this.one.text;
    const study = session.study.id;
    const base = session.steps.seen(study, { action: "edit", sentence: this.id });
    this.draft = this.one.draft;
    this.box = textBox({
      value: text, saved, label: "Text of the sentence", entry: { study, kind: "edit", sentence: this.id, draft: this.one.draft },
      finish: (how, typed, id) => this.close(how, typed, { id, saved, study, base }),
    });
    this.body.hidden = true;
    this.body.after(this.box.element);
    this.box.area.focus();
    this.box.area.setSelectionRange(text.length, text.length);
  }

  /** Save a text that is finished, or keep it undecided if it is not; offer it back if its sentence is gone. */
  close(how, typed, { id, saved, study, base }) {
    const { element } = this.box;
    const text = lines(typed).join(" ");
    const focused = element.contains(document.activeElement);
    const done = how === "done";
    this.box = null;
    if (how === "replaced") unsent.release(id);
    else if (how !== "given up" && text && text !== saved) session.act({ action: "edit", sentence: this.id, text, ...(done ? {} : { done: false }) }, { text: id, study, base });
    else if (done && text && this.one.state === "undecided") session.act({ action: "accept", sentence: this.id }, { study, base });
    element.remove();
    this.body.hidden = false;
    if (how === "replaced") return; // what is typed on acts on no sentence
    if (done) this.pane.decided(this, true);
    else if (focused) this.element.focus();
  }
}
