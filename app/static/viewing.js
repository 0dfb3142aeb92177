// The image, a prior one beside it, and what the reader has to say about them.
import { h, sentence, session } from "./session.js";
import { createViewer } from "./viewer.js";

export function mount(root) {
  const name = h("h2", { id: "study-name" });
  const status = h("span", { id: "study-status" });
  const warnings = h("ul", { id: "warnings", "aria-label": "Warnings about the image" });
  const note = h("p", { id: "evidence-note", role: "status" });
  const current = h("div", { id: "viewer" });
  const earlier = h("div", { id: "prior-viewer" });
  const pair = h("div", { class: "lr-pair" }, current, earlier);
  const file = h("input", {
    type: "file", id: "prior-file", class: "lr-hidden-input", tabIndex: -1, "aria-label": "Prior image file",
    onchange: () => {
      if (file.files.length) session.prior(file.files[0]);
      file.value = "";
    },
  });
  const add = h("button", { id: "add-prior", class: "lr-button", onclick: () => file.click() }, "Add prior …");
  const remove = h("button", { id: "remove-prior", class: "lr-button", onclick: () => session.removePrior() }, "Remove prior");
  const link = h("input", { type: "checkbox", id: "linked", checked: true, onchange: () => relink() });
  const linked = h("label", { for: "linked" }, link, " linked");
  const looked = h("button", {
    id: "encoder-map", class: "lr-button", title: "Attention of the encoder's summary token; not proof of a finding", "aria-pressed": "false",
    onclick: () => session.toggleEvidence(null),
  }, "Where the encoder looked");
  root.append(
    h("div", { class: "lr-line" }, name, status, h("span", { class: "lr-space" }), looked, linked, add, remove, file),
    warnings, note, pair);

  const viewer = createViewer(current, { label: "Radiograph" });
  const prior = createViewer(earlier, { label: "Prior radiograph" });

  function relink() {
    viewer.link(link.checked && session.study?.prior ? prior : null);
  }

  function description(study, part) {
    const { view, modality } = part.facts;
    return `${study.name}, ${view} view${modality ? `, ${modality}` : ""}`;
  }

  function picture(study, part) {
    const { id, width, height, presets } = part.image;
    return { id, width, height, presets, url: `/api/studies/${study.id}/image/${id}`, description: description(study, part) };
  }

  function facts(part) {
    const { view, view_source: from, inverted, mirrored, rotated, burned_in_annotation: burned } = part.facts;
    const known = view !== "unknown" && from !== "none";
    const said = [[`View: ${view}${from === "none" ? " (not stated)" : ""}`, known]];
    if (inverted) said.push(["Stored inverted", true]);
    if (mirrored) said.push(["Left and right were exchanged", false]);
    if (rotated) said.push([`Turned by ${rotated}°`, false]);
    if (burned === "yes") said.push(["Burned-in text: may show identity", false]);
    return said;
  }

  function strip() {
    const { study } = session;
    warnings.replaceChildren();
    if (!study) return;
    for (const [part, prefix] of [[study, ""], [study.prior, "Prior: "]]) {
      if (!part) continue;
      const texts = [...new Set(part.warnings)];
      for (const [fact, plain] of facts(part)) warnings.append(h("li", { class: plain ? "lr-chip" : "lr-chip lr-attention" }, prefix + fact));
      for (const text of texts) warnings.append(h("li", { class: "lr-chip lr-attention" }, prefix + sentence(text)));
    }
  }

  let shown = { current: null, prior: null };
  function draw() {
    const { study } = session;
    name.textContent = study?.name ?? "No image";
    status.textContent = study ? `${study.status}${study.version > 1 ? `, version ${study.version}` : ""}` : "";
    status.className = `lr-status lr-${study?.status ?? "none"}`;
    strip();
    const has = Boolean(study?.prior);
    earlier.hidden = linked.hidden = remove.hidden = !has;
    add.hidden = !study || has;
    looked.hidden = !study;
    pair.classList.toggle("lr-two", has);
    const next = { current: study?.image.id ?? null, prior: study?.prior?.image.id ?? null };
    if (next.current !== shown.current) (study ? viewer.show(picture(study, study)).then(() => session.painted()) : viewer.clear());
    if (next.prior !== shown.prior) (has ? prior.show(picture(study, study.prior)) : prior.clear());
    const changed = next.prior !== shown.prior || next.current !== shown.current;
    shown = next;
    if (changed) relink();
  }

  session.addEventListener("study", draw);
  session.addEventListener("evidence", () => {
    const found = session.evidence;
    viewer.overlay(found?.map ?? null);
    note.textContent = found?.map.note ?? "";
    looked.setAttribute("aria-pressed", String(found?.sentence === null));
  });
  draw();
}
