// Tools above an image: one row of buttons, moved through with the arrow keys.
import { icon } from "./icons.js";

const TOOLS = [
  ["zoom-out", "Zoom out (-)", (viewer) => viewer.zoomOut()],
  ["zoom-in", "Zoom in (+)", (viewer) => viewer.zoomIn()],
  ["fit", "Fit into the window (f)", (viewer) => viewer.fit()],
  ["1:1", "1:1, one image pixel for each screen pixel (o)", (viewer) => viewer.oneToOne()],
  ["invert", "Invert (i)", (viewer) => viewer.invert()],
  ["rotate", "Turn clockwise by 90° (t)", (viewer) => viewer.rotate()],
  ["flip", "Exchange left and right (l)", (viewer) => viewer.flip()],
  ["magnifier", "Magnifier (g)", (viewer) => viewer.magnify()],
  ["length", "Measure a length (m)", (viewer) => viewer.measure("length")],
  ["cardiothoracic", "Measure the cardiothoracic ratio (c)", (viewer) => viewer.measure("cardiothoracic")],
  ["reset", "Reset window, zoom, turns and inversion (r)", (viewer) => viewer.reset()],
  ["map", "Show or hide the map (h)", (viewer) => viewer.toggleMap()],
  ["boxes", "Show or hide the boxes (b)", (viewer) => viewer.toggleBoxes()],
];

export class Toolbar {
  #buttons = new Map();

  constructor(viewer) {
    this.viewer = viewer;
    this.element = document.createElement("div");
    this.element.className = "lr-toolbar";
    this.element.setAttribute("role", "toolbar");
    this.element.setAttribute("aria-label", `${viewer.label}: view`);
    for (const [name, title, act] of TOOLS) this.#add(name, title, () => act(viewer));
    this.presets = document.createElement("select");
    this.presets.className = "lr-presets";
    this.presets.title = "Window (1 … 9)";
    this.presets.setAttribute("aria-label", `${viewer.label}: window`);
    this.presets.addEventListener("change", () => viewer.preset(Number(this.presets.value)));
    this.strength = Object.assign(document.createElement("input"), { className: "lr-strength", type: "range", min: 0, max: 100, value: 60 });
    this.strength.setAttribute("aria-label", `${viewer.label}: strength of the map`);
    this.strength.addEventListener("input", () => viewer.draw());
    this.element.append(this.presets);
    this.element.addEventListener("keydown", (event) => this.#move(event));
  }

  #add(name, title, act) {
    const button = Object.assign(document.createElement("button"), { className: "lr-tool", type: "button", title, tabIndex: -1 });
    button.dataset.tool = name;
    button.setAttribute("aria-label", `${this.viewer.label}: ${title}`);
    button.append(name === "1:1" ? "1:1" : icon(name));
    button.addEventListener("click", act);
    this.element.append(button);
    this.#buttons.set(name, button);
  }

  /** Move the focus with the arrow keys: one Tab stop for all buttons. */
  #move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    const there = [...this.#buttons.values()].filter((one) => !one.hidden);
    const at = there.indexOf(event.target);
    if (!step || at < 0) return;
    event.preventDefault();
    const to = there[Math.abs(step) === 1 ? (at + step + there.length) % there.length : step < 0 ? 0 : there.length - 1];
    for (const one of there) one.tabIndex = one === to ? 0 : -1;
    to.focus();
  }

  /** Offer an image's windows. */
  offer(presets) {
    this.presets.replaceChildren(...presets.map((preset, number) => new Option(`${number + 1} ${preset.label}`, String(number))));
  }

  /** Show which tools are on and which there are. */
  update({ usable, pressed, map, boxes }) {
    this.element.classList.toggle("lr-off", !usable);
    this.#buttons.get("map").hidden = this.strength.hidden = !map;
    this.#buttons.get("boxes").hidden = !boxes;
    for (const [name, button] of this.#buttons) {
      if (name in pressed) button.setAttribute("aria-pressed", String(pressed[name]));
      button.disabled = !usable;
    }
    const there = [...this.#buttons.values()].filter((one) => !one.hidden);
    if (!there.some((one) => one.tabIndex === 0)) there[0].tabIndex = 0;
  }
}
