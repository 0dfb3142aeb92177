// Elements of a viewer around its canvas: letters of the sides, values, message, hint, help for screen readers.
import { h } from "./dom.js";
import { rightEdge } from "./geometry.js";

const OPPOSITE = { left: "right", right: "left", top: "bottom", bottom: "top" };
const HELP = "Radiograph. Plus and minus zoom, arrow keys move, F fits, O shows one to one. Square brackets change the window's width, curly brackets its level, digits choose a window, I inverts. T turns, L exchanges left and right, G is a magnifier, M measures a length, C the cardiothoracic ratio, R resets.";
let helps = 0;

export class Stage {
  constructor(label) {
    const help = h("p", { class: "lr-for-readers", id: `lr-help-${(helps += 1)}` }, HELP);
    this.label = label;
    this.canvas = h("canvas", { class: "lr-canvas", tabIndex: 0, role: "application", "aria-describedby": help.id });
    this.hud = h("div", { class: "lr-hud" });
    this.message = h("div", { class: "lr-message" });
    this.hint = h("div", { class: "lr-hint", role: "status" });
    this.sides = ["L", "R"].map((letter) => h("span", { class: "lr-side", hidden: true }, letter));
    this.element = h("div", { class: "lr-stage" }, this.canvas, ...this.sides, this.hud, this.hint, this.message, help);
  }

  /** Name the image for screen readers. */
  name(text) {
    this.canvas.setAttribute("aria-label", `${this.label}: ${text}`);
  }

  /** Show a message over the image; `more` are elements. */
  note(text, ...more) {
    this.message.replaceChildren(text, ...more);
  }

  /** Show the letters of the sides: `known` is stated or assumed; without it they are hidden. */
  mark(known, view) {
    const edge = rightEdge(view);
    const assumed = known === "assumed";
    for (const [at, side] of this.sides.entries()) {
      side.hidden = !known;
      side.textContent = "LR"[at] + (assumed ? "?" : "");
      side.title = `Patient's ${at ? "right" : "left"}${assumed ? ": assumed, the file does not state it" : ""}`;
      side.dataset.edge = at ? OPPOSITE[edge] : edge;
    }
  }
}
