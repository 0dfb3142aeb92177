// Line below the report about one sentence: its rarer actions, and for a change the kind of error and its significance.
import { h, icon } from "./dom.js";
import { hint, register } from "./keys.js";
import { session } from "./session.js";

/** Keys of the kinds of error and of their significance; their titles come from the server. */
const KEYS = {
  category: { false_finding: "f", missed_finding: "m", place: "p", severity: "v", false_comparison: "c", missed_comparison: "l", other: "o" },
  significance: { urgent: "Shift+1", actionable_not_urgent: "Shift+2", not_actionable_not_urgent: "Shift+3", benign_expected: "Shift+4" },
};
const LISTS = { category: "categories", significance: "significance" };

function options(name) {
  return session.me?.errors?.[LISTS[name]] ?? [];
}

/** Return the title of a kind of error or of a significance. */
export function titleOf(name, value) {
  return value ? options(name).find((one) => one.value === value)?.title ?? value : "";
}

const ACTS = { show: "Where the model looked; not proof", revert: "Back to the draft's sentence", undecide: "Decide later" };
const CHANGED = ["edited", "rejected", "added"];

/**
 * Create the line below the report.
 * @param selected returns the selected sentence, or undefined
 * @param changed returns the changed sentence that a kind of error is about, or undefined
 * @param acts of the selected sentence: undecide, revert, show
 * @param can returns true if sentences can be decided
 */
export function createAnnotations({ selected, changed, acts, can }) {
  const choices = { category: choice("category", "Kind of error"), significance: choice("significance", "Significance") };
  const buttons = Object.fromEntries(Object.entries(ACTS).map(([name, label]) => [name,
    h("button", { class: `lr-slot lr-do-${name}`, "aria-label": `${label}: the selected sentence`, onclick: () => acts[name]() }, icon(name))]));
  const about = h("span", { class: "lr-quiet lr-number-of" });
  const element = h("div", { id: "annotation", class: "lr-line", role: "group", "aria-label": "Selected sentence" }, ...Object.values(buttons), h("span", { class: "lr-space" }), about, ...Object.values(choices).map((one) => one.label));

  function choice(name, title) {
    const select = h("select", { id: `error-${name}`, onchange: () => set(name, select.value || null) });
    const fill = () => select.replaceChildren(h("option", { value: "" }, `${title} …`), ...options(name).map((one) => h("option", { value: one.value }, hint(`${name}-${one.value}`, one.title))));
    return { select, fill, label: h("label", { class: "lr-choice", title }, h("span", { class: "lr-unseen" }, title), select) };
  }

  function set(name, value) {
    const one = changed();
    if (!one) return;
    const error = { category: null, significance: null, ...one.error, [name]: value };
    if (error.significance && !error.category) error.category = "other";
    session.act({ action: "annotate", sentence: one.id, category: error.category, significance: error.category ? error.significance : null });
  }

  session.addEventListener("me", () => {
    for (const name of Object.keys(KEYS)) {
      for (const { value, title } of options(name)) {
        register({
          id: `${name}-${value}`, label: `${name === "category" ? "Kind of error" : "Significance of the error"}: ${title}`, scope: "report", keys: [KEYS[name][value]].filter(Boolean), when: () => Boolean(changed()),
          act: () => set(name, changed().error?.[name] === value ? null : value),
        });
      }
    }
  });

  function show() {
    const [here, one] = [selected(), changed()];
    element.hidden = !here;
    if (!here) return;
    const possible = {
      undecide: can() && here.draft !== null && here.state !== "undecided", revert: can() && here.draft !== null && here.text !== here.draft,
      show: here.draft !== null && !session.study.draft?.inputs?.grounded,
    };
    for (const [name, button] of Object.entries(buttons)) {
      button.disabled = !possible[name];
      button.title = hint(name, ACTS[name]);
    }
    buttons.show.setAttribute("aria-pressed", String(session.evidence?.sentence === here.id));
    about.textContent = one ? String(session.study.sentences.findIndex((other) => other.id === one.id) + 1) : "";
    for (const [name, { select, fill }] of Object.entries(choices)) {
      if (document.activeElement !== select) fill();
      select.value = one?.error?.[name] ?? "";
      select.disabled = !one;
    }
  }
  return { element, show };
}

/** Return true if a sentence can have a kind of error. */
export const isChanged = (one) => CHANGED.includes(one?.state);
