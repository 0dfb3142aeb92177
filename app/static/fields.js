// Text fields of a study: saved while typing, and passed to the model if its prompt takes them.
import { h, session } from "./session.js";

const NAMES = { indication: "Indication", technique: "Technique", comparison: "Comparison", prior_report: "Prior report" };
export const PAUSE_MS = 1500; // pause in typing after which the text is saved

/** Return true if the model's prompt takes an input. */
export function takes(name) {
  return session.me?.model.takes?.includes(name.replace("_", "-")) ?? false;
}

export function createFields(editable) {
  const fields = Object.entries(NAMES).map(([name, title]) => field(name, title, editable));
  const note = h("p", { id: "given", class: "lr-quiet" });
  const element = h("details", { id: "fields", open: true }, h("summary", {}, "About the study"), h("div", {}, ...fields.map((one) => one.label)), note);

  function show() {
    for (const one of fields) one.show();
    if (session.me?.model.state !== "ready") note.textContent = "";
    else if (!session.me.model.takes.length) note.textContent = "Kept with the review; the model uses only the image.";
    else {
      const images = [takes("lateral") && "lateral", takes("prior") && (takes("prior_report") ? "prior with its report" : "prior")].filter(Boolean);
      const texts = Object.entries(NAMES).filter(([name]) => name !== "prior_report" && takes(name)).map(([, title]) => title.toLowerCase());
      const rest = Object.keys(NAMES).every((name) => takes(name)) ? "" : " The rest is kept with the review.";
      note.textContent = `Given to the model with the image: ${[...images, ...texts].join(", ")}.${rest}`;
    }
  }
  return { element, show };
}

function field(name, title, editable) {
  const area = h("textarea", { id: `field-${name}`, rows: name === "prior_report" ? 2 : 1, maxLength: 4000 });
  let timer = null;
  const save = () => {
    clearTimeout(timer);
    timer = null;
    if (area.dataset.study === session.study?.id && editable() && area.value !== session.study.fields[name]) {
      session.act({ action: "field", field: name, text: area.value }, { keepalive: true });
    }
  };
  area.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(save, PAUSE_MS);
  });
  area.addEventListener("blur", save);
  addEventListener("pagehide", save);
  const label = h("label", { for: area.id, dataset: { field: name } }, title, area);
  const show = () => {
    const value = session.study?.fields[name] ?? "";
    const busy = document.activeElement === area && area.dataset.study === session.study?.id;
    if (!busy) {
      clearTimeout(timer);
      area.value = value;
    }
    area.dataset.study = session.study?.id ?? "";
    area.readOnly = !editable();
    label.hidden = name === "technique" && !takes(name) && !value;
  };
  return { label, show };
}
