// Tools above an image: one row of buttons, moved through with the arrow keys.
import { icon } from "./dom.js";
import { TOOLS as DRAWINGS } from "./icons.js";
import { COMMANDS } from "./input.js";

const TOOLS = ["zoom-out", "zoom-in", "fit", "one-to-one", "invert", "rotate", "flip", "magnifier", "length", "cardiothoracic", "reset", "map", "boxes"];

export class Toolbar {
  #buttons = new Map();

  constructor(viewer) {
    this.viewer = viewer;
    this.element = document.createElement("div");
    this.element.className = "lr-toolbar";
    this.element.setAttribute("role", "toolbar");
    this.element.setAttribute("aria-label", `${viewer.label}: view`);
    for (const name of TOOLS) {
      const [, , , act] = COMMANDS.find(([id]) => id === name);
      this.#add(name, () => act(viewer));
    }
    this.title((name) => COMMANDS.find(([id]) => id === name)[2][0]);
    this.presets = document.createElement("select");
    this.presets.className = "lr-presets";
    this.presets.title = "Window (1 … 9)";
    this.presets.setAttribute("aria-label", `${viewer.label}: window`);
    this.presets.addEventListener("change", () => viewer.preset(Number(this.presets.value)));
    this.strength = Object.assign(document.createElement("input"), { className: "lr-strength", type: "range", min: 0, max: 100, value: 60 });
    this.strength.setAttribute("aria-label", `${viewer.label}: strength of the map`);
    this.strength.addEventListener("input", () => viewer.draw());
    this.strength.addEventListener("keydown", (event) => event.stopPropagation()); // arrows move the slider, not the image
    this.element.append(this.presets);
    this.element.addEventListener("keydown", (event) => this.#move(event));
  }

  #add(name, act) {
    const button = Object.assign(document.createElement("button"), { className: "lr-tool", type: "button", tabIndex: -1 });
    button.dataset.tool = name;
    button.append(name === "one-to-one" ? "1:1" : icon(name, DRAWINGS));
    button.addEventListener("click", act);
    this.element.append(button);
    this.#buttons.set(name, button);
  }

  /** Name each tool after its label and the key that the user has chosen for it. */
  title(keyOf) {
    for (const [name, button] of this.#buttons) {
      const [, label] = COMMANDS.find(([id]) => id === name);
      const key = keyOf(name);
      button.title = key ? `${label} (${key})` : label;
      button.setAttribute("aria-label", `${this.viewer.label}: ${button.title}`);
    }
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
