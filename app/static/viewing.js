// The image, next to it a lateral or prior image, and the warnings about them.
import { boxesOf } from "./overlays.js";
import { takes } from "./fields.js";
import { h, sentence, session } from "./session.js";
import { createViewer } from "./viewer.js";

export function mount(root) {
  const name = h("h2", { id: "study-name" });
  const status = h("span", { id: "study-status" });
  const warnings = h("ul", { id: "warnings", "aria-label": "Warnings about the image" });
  const note = h("p", { id: "evidence-note", role: "status" });
  const current = h("div", { id: "viewer" });
  const sides = { lateral: side("lateral", "Lateral"), prior: side("prior", "Prior") };
  const pair = h("div", { class: "lr-pair" }, current, sides.lateral.stage, sides.prior.stage);
  const link = h("input", { type: "checkbox", id: "linked", checked: true, onchange: () => relink() });
  const linked = h("label", { for: "linked" }, link, " linked");
  const swap = h("button", { id: "swap", class: "lr-button", onclick: () => show(context() === "prior" ? "lateral" : "prior") });
  const looked = h("button", {
    id: "encoder-map", class: "lr-button", title: "Attention of the encoder's summary token; not proof of a finding", "aria-pressed": "false",
    onclick: () => session.toggleEvidence(null),
  }, "Where the encoder looked");
  root.append(
    h("div", { class: "lr-line" }, name, status, h("span", { class: "lr-space" }), looked, linked, swap,
      ...Object.values(sides).flatMap((one) => [one.add, one.remove, one.file])),
    warnings, note, pair);

  const viewer = createViewer(current, { label: "Radiograph" });
  for (const one of Object.values(sides)) one.viewer = createViewer(one.stage, { label: `${one.title} radiograph` });
  let wanted = "prior"; // preferred context image

  /** Create viewer and buttons of a context image. */
  function side(which, title) {
    const file = h("input", {
      type: "file", id: `${which}-file`, class: "lr-hidden-input", tabIndex: -1, "aria-label": `${title} image file`,
      onchange: () => {
        wanted = which;
        if (file.files.length) session.addContext(which, file.files[0]);
        file.value = "";
      },
    });
    const add = h("button", { id: `add-${which}`, class: "lr-button", onclick: () => file.click() }, `Add ${which} …`);
    const remove = h("button", { id: `remove-${which}`, class: "lr-button", onclick: () => session.removeContext(which) }, `Remove ${which}`);
    return { title, file, add, remove, stage: h("div", { id: `${which}-viewer` }), shown: null };
  }

  /** Return the name of the context image on display, or null. */
  function context() {
    const there = ["prior", "lateral"].filter((which) => session.study?.[which]);
    return there.includes(wanted) ? wanted : there[0] ?? null;
  }

  function show(which) {
    wanted = which;
    draw();
    // after the viewer has been laid out
    requestAnimationFrame(() => requestAnimationFrame(relink));
  }

  function relink() {
    viewer.link(link.checked && context() === "prior" ? sides.prior.viewer : null);
  }

  function description(study, part) {
    const { view, modality } = part.facts;
    return `${study.name}, ${view} view${modality ? `, ${modality}` : ""}`;
  }

  function picture(study, part) {
    const { id, width, height, presets } = part.image;
    return { id, width, height, presets, url: `/api/studies/${study.id}/image/${id}`, description: description(study, part) };
  }

  function facts(part, lateral) {
    const { view, view_source: from, inverted, mirrored, rotated, burned_in_annotation: burned } = part.facts;
    const known = lateral ? view === "lateral" : view !== "unknown" && from !== "none";
    const texts = [[`View: ${view}${from === "none" ? " (not stated)" : ""}`, known]];
    if (inverted) texts.push(["Stored inverted", true]);
    if (mirrored) texts.push(["Left and right were exchanged", false]);
    if (rotated) texts.push([`Turned by ${rotated}°`, false]);
    if (burned === "yes") texts.push(["Burned-in text: may show identity", false]);
    return texts;
  }

  function strip() {
    const { study } = session;
    warnings.replaceChildren();
    if (!study) return;
    for (const [part, prefix] of [[study, ""], [study.lateral, "Lateral: "], [study.prior, "Prior: "]]) {
      if (!part) continue;
      const lateral = part === study.lateral;
      // a lateral context image needs no warning that it is not frontal
      const texts = [...new Set(part.warnings)].filter((text) => !lateral || !text.includes(": the image is a lateral"));
      for (const [fact, plain] of facts(part, lateral)) warnings.append(h("li", { class: plain ? "lr-chip" : "lr-chip lr-attention" }, prefix + fact));
      for (const text of texts) warnings.append(h("li", { class: "lr-chip lr-attention" }, prefix + sentence(text)));
    }
  }

  let shown = null;
  function draw() {
    const { study } = session;
    name.textContent = study?.name ?? "No image";
    status.textContent = study ? `${study.status}${study.version > 1 ? `, version ${study.version}` : ""}` : "";
    status.className = `lr-status lr-${study?.status ?? "none"}`;
    strip();
    const seen = context();
    looked.hidden = !study;
    linked.hidden = seen !== "prior";
    swap.hidden = !study?.lateral || !study.prior;
    swap.textContent = seen === "prior" ? "Show lateral" : "Show prior";
    pair.classList.toggle("lr-two", Boolean(seen));
    let changed = (study?.image.id ?? null) !== shown;
    if (changed) (study ? viewer.show(picture(study, study)).then(() => session.painted()) : viewer.clear());
    shown = study?.image.id ?? null;
    for (const [which, one] of Object.entries(sides)) {
      const part = study?.[which];
      const id = part?.image.id ?? null;
      one.stage.hidden = seen !== which;
      one.remove.hidden = !part;
      one.add.hidden = !study || Boolean(part) || (which === "lateral" && !takes(which));
      if (id !== one.shown) (part ? one.viewer.show(picture(study, part)) : one.viewer.clear());
      changed ||= id !== one.shown;
      one.shown = id;
    }
    if (changed) relink();
    drawBoxes();
  }

  function drawBoxes() {
    viewer.boxes(boxesOf(session.study, session.selected));
  }

  session.addEventListener("study", draw);
  session.addEventListener("me", draw);
  session.addEventListener("selected", drawBoxes);
  session.addEventListener("evidence", () => {
    const found = session.evidence;
    viewer.overlay(found?.map ?? null);
    note.textContent = found?.map.note ?? "";
    looked.setAttribute("aria-pressed", String(found?.sentence === null));
  });
  draw();
}
