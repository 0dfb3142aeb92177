// Findings of the report as chips. Ticked or corrected, a finding is a label that a reader has confirmed.
import { h } from "./dom.js";
import { session } from "./session.js";

const VALUES = ["positive", "negative", "uncertain", "not mentioned"];

export function createLabels(editable) {
  const all = h("input", { type: "checkbox", id: "all-labels", onchange: () => show() });
  const list = h("ul", { id: "labels" });
  const chips = new Map(); // finding -> chip
  const element = h("section", { id: "findings-of-text", "aria-labelledby": "labels-title" },
    h("div", { class: "lr-line" }, h("h3", { id: "labels-title" }, "Findings in the text"), h("span", { class: "lr-quiet" }, "tick to confirm, change to correct"),
      h("span", { class: "lr-space" }), h("label", { for: "all-labels" }, all, " all 14")),
    list);

  function chip(finding) {
    const id = `label-${finding.toLowerCase().replace(/\W+/g, "-")}`;
    const send = (value) => session.act({ action: "label", finding, value });
    const tick = h("input", { type: "checkbox", id, onchange: () => send(tick.checked ? select.value : null) });
    const select = h("select", { "aria-label": `${finding}: value`, onchange: () => send(select.value) }, ...VALUES.map((value) => h("option", { value }, value)));
    return { tick, select, element: h("li", { dataset: { finding } }, h("label", { for: id }, tick, finding), select) };
  }

  function show() {
    const found = session.study?.labels ?? [];
    const wanted = found.filter((one) => all.checked || one.corrected || one.draft !== "not mentioned" || one.present !== "not mentioned");
    const names = new Set(wanted.map((one) => one.finding));
    for (const [finding, one] of chips) {
      if (!names.has(finding)) {
        one.element.remove();
        chips.delete(finding);
      }
    }
    for (const one of wanted) {
      const made = chips.get(one.finding) ?? chip(one.finding);
      chips.set(one.finding, made);
      const value = one.corrected ?? one.present;
      made.tick.checked = Boolean(one.corrected);
      made.select.value = value;
      made.tick.disabled = made.select.disabled = !editable();
      made.element.className = `lr-finding lr-${value.replace(" ", "-")}${one.corrected && one.corrected !== one.present ? " lr-corrected" : ""}`;
      made.element.title = one.draft === one.present ? "" : `${one.draft} in the draft, ${one.present} in the present text`;
    }
    const order = wanted.map((one) => chips.get(one.finding).element);
    if (order.some((one, at) => list.children[at] !== one)) list.replaceChildren(...order);
    element.hidden = !found.length;
  }
  return { element, show };
}
