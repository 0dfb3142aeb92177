// Text fields of a study: saved while typing, and passed to the model if its prompt takes them.
import { h, session } from "./session.js";
import { identifier } from "./steps.js";
import { unsent } from "./unsent.js";

const NAMES = { indication: "Indication", technique: "Technique", comparison: "Comparison", prior_report: "Prior report" };
export const PAUSE_MS = 1500; // pause in typing after which the text is saved

/** Return true if the model's prompt takes an input. */
export function takes(name) {
  return session.me?.model.takes?.includes(name.replace("_", "-")) ?? false;
}

export function createFields(editable) {
  const fields = Object.fromEntries(Object.entries(NAMES).map(([name, title]) => [name, field(name, title, editable)]));
  const note = h("p", { id: "given", class: "lr-quiet" });
  const short = h("span", { id: "fields-short" });
  const element = h("details", { id: "fields" }, h("summary", {}, h("strong", {}, "About the study"), short), h("div", {}, ...Object.values(fields).map((one) => one.label)), note);
  element.open = localStorage.getItem("llava-rad.fields") === "open";
  element.addEventListener("toggle", () => localStorage.setItem("llava-rad.fields", element.open ? "open" : "closed"));

  function show() {
    for (const one of Object.values(fields)) one.show();
    element.hidden = !session.study;
    const filled = Object.entries(NAMES).map(([name, title]) => [title, session.study?.fields[name]]).filter(([, text]) => text);
    short.textContent = filled.length ? filled.map(([title, text]) => `${title}: ${text.replace(/\s+/g, " ")}`).join(" · ") : "no indication, no comparison";
    if (session.me?.model.state !== "ready") note.textContent = "";
    else if (!session.me.model.takes.length) note.textContent = "Kept with the review; the model uses only the image.";
    else {
      const images = [takes("lateral") && "lateral", takes("prior") && (takes("prior_report") ? "prior with its report" : "prior")].filter(Boolean);
      const texts = Object.entries(NAMES).filter(([name]) => name !== "prior_report" && takes(name)).map(([, title]) => title.toLowerCase());
      const rest = Object.keys(NAMES).every((name) => takes(name)) ? "" : " The rest is kept with the review.";
      note.textContent = `Given to the model with the image: ${[...images, ...texts].join(", ")}.${rest}`;
    }
  }

  /** Put a text that was not saved back into its field, and save it. */
  function put(name, text) {
    element.open = true;
    fields[name].put(text);
  }

  /** Save the field that has the focus, and leave it; returns false if there is none. */
  function leave() {
    const at = document.activeElement;
    if (!element.contains(at)) return false;
    at.blur();
    return true;
  }
  return { element, show, put, leave };
}

function field(name, title, editable) {
  const area = h("textarea", { id: `field-${name}`, rows: name === "prior_report" ? 2 : 1, maxLength: 4000, spellcheck: true, lang: "en" });
  let timer = null;
  let kept = null; // id of the text in the browser
  let saved = ""; // text of the area that has been sent or was shown
  let base = ""; // text of the study that the area's text follows
  const save = () => {
    clearTimeout(timer);
    timer = null;
    const { study } = area.dataset;
    if (!study || area.value === saved) return;
    const [text, id, before] = [area.value.trim(), kept, base];
    [saved, kept] = [area.value, null];
    if (study === session.study?.id && !editable()) {
      if (id) unsent.release(id);
      return;
    }
    base = text;
    session.act({ action: "field", field: name, text }, { text: id, study, base: JSON.stringify(before) }).then((state) => {
      if (state && area.dataset.study === study && base === text) base = state.fields[name]; // without control characters
    });
  };
  area.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(save, PAUSE_MS);
    kept ??= identifier();
    unsent.keep(kept, { study: area.dataset.study, kind: "field", field: name, text: area.value });
  });
  area.addEventListener("blur", save);
  addEventListener("pagehide", save);
  const label = h("label", { for: area.id, dataset: { field: name } }, title, area);
  const show = () => {
    const value = session.study?.fields[name] ?? "";
    const own = area.dataset.study === (session.study?.id ?? "");
    if (!own) save(); // the text of the study that was open before
    const typed = timer !== null || area.value !== saved;
    // a text that is being typed stays, and so does a saved one under the cursor unless another one has come
    if (!own || !(typed || (document.activeElement === area && value === base))) {
      clearTimeout(timer);
      timer = kept = null;
      area.value = base = value;
      saved = area.value; // line breaks may be others
    }
    area.dataset.study = session.study?.id ?? "";
    area.readOnly = !editable();
    label.hidden = name === "technique" && !takes(name) && !value;
  };
  const put = (text) => {
    area.value = text;
    kept = identifier();
    unsent.keep(kept, { study: area.dataset.study, kind: "field", field: name, text });
    save();
  };
  return { label, show, put };
}
