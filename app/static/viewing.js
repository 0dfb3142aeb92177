// Hanging: the frontal image left; right of it the prior, the lateral or a further image. Below them thumbnails,
// measurements and the signed report of the prior.
import { COMMANDS } from "./input.js";
import { keysOf, register, shown } from "./keys.js";
import { preload } from "./loading.js";
import { TITLES, valueOf } from "./measuring.js";
import { boxesOf } from "./overlays.js";
import { call, h, session } from "./session.js";
import { pictureOf, thumbnail } from "./pictures.js";
import { createViewer } from "./viewer.js";

const COMPUTING = "Computing the map …";
const CONTEXT = { prior: "Prior", lateral: "Lateral", further: "Further image" };

export function mount(root) {
  const note = h("p", { id: "evidence-note", role: "status" });
  const viewer = createViewer(h("div", { id: "viewer" }), { label: "Radiograph", keys: false, measured: (...found) => keep(viewer, ...found) });
  const sides = Object.fromEntries(Object.keys(CONTEXT).map((which) => [which, side(which)]));
  const current = h("div", { class: "lr-pane lr-current" }, viewer.root);
  const earlier = h("details", { id: "prior-signed", open: matchMedia("(min-width: 45rem) and (min-height: 37rem)").matches }, h("summary", {}), h("p", {}));
  const pair = h("div", { class: "lr-pair" }, current, ...Object.values(sides).map((one) => one.pane));
  const images = h("ul", { id: "images", "aria-label": "Images of the study", role: "list" });
  const link = h("input", { type: "checkbox", id: "linked", checked: true, onchange: () => relink() });
  const linked = h("label", { for: "linked", title: "Zoom, position and window of both images change together" }, link, " linked");
  const looked = h("button", {
    id: "encoder-map", class: "lr-button", title: "Where the encoder looked: attention of its summary token; not proof of a finding", "aria-pressed": "false",
    onclick: async () => {
      if (!session.evidence) note.textContent = COMPUTING;
      await session.toggleEvidence(null);
      if (note.textContent === COMPUTING) note.textContent = "";
    },
  }, "Encoder map");
  const measurements = h("ul", { id: "measurements", "aria-label": "Measurements", role: "list" });
  root.append(
    pair, earlier, note,
    h("div", { class: "lr-hanging" }, images, measurements, h("span", { class: "lr-space" }), linked, looked,
      ...["lateral", "prior"].flatMap((which) => [sides[which].add, sides[which].remove, sides[which].file]), sides.further.remove));

  const chosen = { which: null, further: 0, measurement: null }; // by the reader for this study
  let lastChoice = null; // right image that the reader chose last, for the next studies: prior, lateral or none
  let shownStudy = null;

  /** Create viewer and buttons of a context image. */
  function side(which) {
    const one = { shown: null, viewer: createViewer(h("div", { id: `${which}-viewer` }), { label: `${CONTEXT[which]} radiograph`, keys: false, measured: (...found) => keep(one.viewer, ...found) }) };
    one.pane = h("div", { class: "lr-pane lr-context", hidden: true, dataset: { title: CONTEXT[which] } }, one.viewer.root);
    one.file = h("input", {
      type: "file", id: `${which}-file`, class: "lr-hidden-input", tabIndex: -1, "aria-label": `${CONTEXT[which]} image file`,
      onchange: () => {
        if (one.file.files.length) {
          chosen.which = which;
          session.addContext(which, one.file.files[0]);
        }
        one.file.value = "";
      },
    });
    one.add = h("button", { id: `add-${which}`, class: "lr-button", onclick: () => one.file.click() }, `Add ${which} …`);
    one.remove = h("button", { id: `remove-${which}`, class: "lr-button", onclick: () => session.removeContext(which === "further" ? `further/${one.shown}` : which) }, which === "further" ? "Remove image" : `Remove ${which}`);
    return one;
  }

  /** Return the images that can hang on the right: [which, part, number among the further ones]. */
  function others() {
    const { study } = session;
    if (!study) return [];
    const found = ["prior", "lateral"].filter((which) => study[which]).map((which) => [which, study[which], 0]);
    return [...found, ...(study.further ?? []).map((part, number) => ["further", part, number])];
  }

  /** Return the image that hangs on the right, by the reader's choice, else prior before lateral; or null. */
  function context() {
    const there = others();
    if (chosen.which === "none") return null;
    const wanted = there.find(([which, , number]) => which === chosen.which && number === (which === "further" ? chosen.further : 0));
    return wanted ?? there.find(([which]) => which === lastChoice) ?? there[0] ?? null;
  }

  /** Hang an image on the right; the one that hangs there is taken down. */
  function hang(which, number = 0) {
    const seen = context();
    const same = seen && seen[0] === which && seen[2] === number;
    const front = pair.dataset.front === "context" || !narrow();
    chosen.which = same && front ? "none" : which;
    chosen.further = number;
    if (["prior", "lateral"].includes(which)) lastChoice = which;
    pair.dataset.front = chosen.which === "none" ? "current" : "context";
    draw();
    relinkLater();
  }

  /** Return true if only one of the two images is shown (viewer.css). */
  function narrow() {
    return getComputedStyle(seenPane()).display === "none" || getComputedStyle(current).display === "none";
  }

  function seenPane() {
    return sides[context()?.[0]]?.pane ?? current;
  }

  /** Hang the next image on the right: prior, lateral, further ones, none. */
  function hangNext() {
    const there = others();
    if (!there.length) return;
    const seen = context();
    const at = seen ? there.findIndex(([which, , number]) => which === seen[0] && number === seen[2]) : -1;
    if (at + 1 < there.length) hang(there[at + 1][0], there[at + 1][2]);
    else hang(seen[0], seen[2]);
  }

  /** Link the viewers after they have been laid out. */
  function relinkLater() {
    requestAnimationFrame(() => requestAnimationFrame(relink));
  }

  function relink() {
    viewer.link(link.checked && context()?.[0] === "prior" ? sides.prior.viewer : null);
  }

  function keep(from, kind, points, id) {
    const image = from.state().id;
    if (image) session.act({ action: "measure", kind, image, points, ...(id && { id }) });
  }

  function draw() {
    const { study } = session;
    if ((study?.id ?? null) !== shownStudy) {
      shownStudy = study?.id ?? null;
      Object.assign(chosen, { which: null, further: 0, measurement: null });
      pair.dataset.front = "current";
    }
    const seen = context();
    looked.hidden = !study;
    linked.hidden = seen?.[0] !== "prior";
    pair.classList.toggle("lr-two", Boolean(seen));
    if (seen) document.body.dataset.pair = "1";
    else delete document.body.dataset.pair;
    let changed = (study?.image.id ?? null) !== viewer.shownId;
    if (changed) {
      viewer.shownId = study?.image.id ?? null;
      if (study) viewer.show(pictureOf(study, study)).then(() => session.painted());
      else viewer.clear();
    }
    for (const [which, one] of Object.entries(sides)) {
      const hanging = seen?.[0] === which;
      const part = which === "further" ? study?.further?.[hanging ? seen[2] : chosen.further] : study?.[which];
      const id = part?.image.id ?? null;
      one.pane.hidden = !hanging;
      one.remove.hidden = !part || !hanging || !editable();
      one.add.hidden = !study || Boolean(part) || !editable();
      if (id !== one.shown) {
        one.shown = id;
        changed = true;
        if (part) one.viewer.show(pictureOf(study, part, which));
        else one.viewer.clear();
      }
    }
    if (changed) relinkLater();
    drawThumbnails(seen);
    drawReport(seen);
    drawBoxes();
    drawMeasurements();
  }

  function editable() {
    return ["pending", "draft"].includes(session.study?.status);
  }

  function drawThumbnails(seen) {
    const { study } = session;
    const there = others();
    images.hidden = !there.length;
    if (images.hidden) {
      images.replaceChildren();
      return;
    }
    const wanted = [["current", study, 0], ...there];
    const key = JSON.stringify(wanted.map(([which, part]) => [which, part.image.id]));
    if (images.dataset.key !== key) {
      images.dataset.key = key;
      images.replaceChildren(...wanted.map(([which, part, number]) => h("li", {}, h("button", {
        class: "lr-thumbnail", dataset: { which, number: String(number) },
        onclick: () => {
          if (which !== "current") return hang(which, number);
          pair.dataset.front = "current";
          return draw();
        },
      }, thumbnail(study, part), titleOf(which, part, number)))));
    }
    const single = narrow();
    for (const button of images.querySelectorAll("button")) {
      const { which, number } = button.dataset;
      const front = !single || (which === "current") === (pair.dataset.front !== "context");
      const on = front && (which === "current" || Boolean(seen && seen[0] === which && seen[2] === Number(number)));
      button.setAttribute("aria-pressed", String(on));
      button.title = which === "current" ? "Hangs on the left" : on ? "Take down (v: next image)" : "Hang on the right (v: next image)";
    }
  }

  function titleOf(which, part, number) {
    if (which === "current") return part.facts.view === "unknown" ? "Current" : `Current, ${part.facts.view}`;
    if (which === "prior") return part.date ? `Prior, ${part.date}` : "Prior";
    return which === "lateral" ? "Lateral" : `Further ${number + 1}`;
  }

  /** Show the prior's report below both images, so that they keep the same height. */
  function drawReport(seen) {
    const prior = session.study?.prior;
    earlier.hidden = !prior?.report || seen?.[0] !== "prior" || (narrow() && pair.dataset.front !== "context");
    if (earlier.hidden) return;
    earlier.querySelector("summary").textContent = `Signed report of the prior${prior.date ? `, ${prior.date}` : ""}`;
    earlier.querySelector("p").textContent = prior.report;
  }

  function drawBoxes() {
    viewer.boxes(boxesOf(session.study, session.selected));
  }

  function drawMeasurements() {
    const found = session.study?.measurements ?? [];
    if (!found.some((one) => one.id === chosen.measurement)) chosen.measurement = null;
    for (const one of [viewer, ...Object.values(sides).map((other) => other.viewer)]) one.measurements(found, chosen.measurement, editable());
    const focused = measurements.contains(document.activeElement);
    measurements.replaceChildren(...found.map((one) => {
      const text = `${TITLES[one.kind] ?? one.kind} ${valueOf(one)}${one.note && one.unit !== "px" ? ` (${one.note})` : ""}`;
      return h("li", { dataset: { measurement: one.id } },
        h("button", {
          "aria-pressed": String(one.id === chosen.measurement), title: `Mark in the image${one.note ? `: ${one.note}` : ""}`,
          onclick: () => {
            chosen.measurement = chosen.measurement === one.id ? null : one.id;
            drawMeasurements();
            measurements.querySelector(`[data-measurement="${CSS.escape(one.id)}"] button`)?.focus();
          },
        }, text),
        editable() ? h("button", { "aria-label": `Delete: ${text}`, title: "Delete", onclick: () => session.act({ action: "unmeasure", id: one.id }) }, "×") : null);
    }));
    if (focused && !measurements.contains(document.activeElement)) (measurements.querySelector("button") ?? viewer.canvas).focus();
  }

  let asked = 0;
  /** Let the map follow the selected sentence while one is on display. */
  async function follow() {
    drawBoxes();
    const { study, selected, evidence } = session;
    if (!evidence || evidence.sentence === null || evidence.sentence === selected) return;
    const mine = (asked += 1);
    if (!study?.sentences.some((one) => one.id === selected && one.draft !== null)) return;
    const map = await call("GET", `/api/studies/${study.id}/evidence?sentence=${encodeURIComponent(selected)}`).catch(() => null);
    if (map && mine === asked && session.study?.id === study.id && session.selected === selected && session.evidence) session.showEvidence({ sentence: selected, map });
  }

  /** Return the viewer that has the focus, else that of the current image. */
  function active() {
    return Object.values(sides).map((one) => one.viewer).find((one) => one.root.contains(document.activeElement)) ?? viewer;
  }

  for (const [id, label, keys, act] of COMMANDS) register({ id: `image-${id}`, label, scope: "viewer", keys, act: (event) => act(active(), event) });
  register({ id: "image-next", label: "Next image on the right: prior, lateral, further ones, none", scope: "viewer", keys: ["v"], act: hangNext });
  register({ id: "image-hang", label: "Next image on the right, from anywhere", scope: "page", keys: ["Alt+v"], act: hangNext, when: () => Boolean(session.study && root.offsetParent) });
  function title() {
    for (const one of [viewer, ...Object.values(sides).map((other) => other.viewer)]) one.tools.title((name) => shown(keysOf(`image-${name}`)[0] ?? ""));
  }
  session.addEventListener("settings", title);
  session.addEventListener("study", draw);
  session.addEventListener("me", draw);
  session.addEventListener("selected", follow);
  session.addEventListener("ahead", ({ detail }) => {
    if (detail) preload([detail, detail.prior, detail.lateral].filter(Boolean).map((part) => pictureOf(detail, part)));
  });
  session.addEventListener("evidence", () => {
    const found = session.evidence;
    viewer.overlay(found?.map ?? null);
    note.textContent = found?.map.note ?? "";
    looked.setAttribute("aria-pressed", String(found?.sentence === null));
  });
  draw();
}
