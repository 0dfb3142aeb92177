// Texts that were typed and not saved, offered back above the report.
import { h } from "./dom.js";
import { lines } from "./macros.js";
import { session } from "./session.js";
import { isOwn } from "./steps.js";
import { unsent } from "./unsent.js";

const KINDS = { new: "new sentence", edit: "change", field: "text" };

/** Return true if a study has a text. */
function has(study, { kind, sentence, field, text }) {
  if (kind === "field") return study.fields[field] === text.trim();
  if (kind === "new") return lines(text).every((line) => study.sentences.some((one) => isOwn(one) && one.text === line));
  return study.sentences.some((one) => one.id === sentence && one.text === lines(text).join(" "));
}

/**
 * Create the place above the report.
 * @param can returns true if a text can be put back now
 * @param putBack opens a text in its editor
 */
export function createKept({ can, putBack }) {
  const element = h("div", { id: "unsent", role: "region", "aria-label": "Text that was not saved" });

  function show() {
    const { study } = session;
    if (study && session.steps.waiting(study.id)) return; // the page is ahead of the server
    const waiting = study ? unsent.waiting(study.id) : [];
    for (const one of waiting) if (has(study, one)) unsent.drop(one.id);
    const shown = waiting.filter((one) => !has(study, one));
    element.hidden = !shown.length;
    element.replaceChildren(...shown.map((one) => h("div", { class: "lr-kept" },
      h("p", {}, h("strong", {}, `This ${KINDS[one.kind]} was not saved: `), one.text),
      h("div", { class: "lr-line" },
        h("button", { class: "lr-button lr-small lr-put-back", disabled: !can(one), onclick: () => putBack(one) }, "Put it back"),
        h("button", { class: "lr-button lr-small", onclick: () => unsent.drop(one.id) }, "Throw it away")))));
  }
  unsent.addEventListener("change", show);
  return { element, show };
}
