// Overlays of an image: boxes in which the model located its sentences, and attention maps (values from 0 to 1).
import { matrix, toCanvas } from "./geometry.js";

const HEAT = [[58, 12, 92], [140, 30, 112], [205, 65, 72], [245, 130, 32], [250, 200, 70], [255, 255, 205]];

/** Draw a map {side, values} on a canvas, one pixel per value; low values are transparent. */
function drawHeat(canvas, { side, values }) {
  const part = new ImageData(side, side);
  values.forEach((value, at) => {
    const position = Math.min(Math.max(value, 0), 1) * (HEAT.length - 1);
    const low = Math.min(Math.floor(position), HEAT.length - 2);
    const colour = HEAT[low].map((one, channel) => one + (HEAT[low + 1][channel] - one) * (position - low));
    part.data.set([...colour, 255 * Math.min(Math.max(value, 0), 1)], 4 * at);
  });
  canvas.width = canvas.height = side;
  canvas.getContext("2d").putImageData(part, 0, 0);
}

/** Paint a drawn map into its box, given in shares of the image's sides. */
function paintHeat(context, heat, [left, top, width, height], image, view, alpha) {
  context.save();
  context.transform(...matrix(image, view));
  // clip the padding that the model's preprocessing adds to make the image square
  context.beginPath();
  context.rect(0, 0, image.width, image.height);
  context.clip();
  context.globalAlpha = alpha;
  context.imageSmoothingEnabled = true;
  context.drawImage(heat, left * image.width, top * image.height, width * image.width, height * image.height);
  context.restore();
}

/** Return the boxes of all sentences that are not rejected, as shares of the image's sides. */
export function boxesOf(study, selected) {
  return (study?.sentences ?? []).filter((one) => one.state !== "rejected")
    .flatMap((one) => (one.boxes ?? []).map((box) => ({ ...box, selected: one.id === selected })));
}

/** Describe a sentence's boxes in words. */
export function describeBoxes({ boxes = [], state }) {
  if (!boxes.length || state === "rejected") return "";
  return `${boxes.length} ${boxes.length === 1 ? "box" : "boxes"}${state === "edited" ? " of the draft" : ""}`;
}

/** Paint boxes: thin, the selected sentence's thick and on top. Dark edges keep them visible on bright pixels. */
function paintBoxes(context, boxes, image, view) {
  const ratio = devicePixelRatio || 1;
  const at = matrix(image, view);
  for (const box of boxes.toSorted((one, other) => one.selected - other.selected)) {
    const [x, y] = toCanvas(at, [box.x_min * image.width, box.y_min * image.height]);
    const [right, bottom] = toCanvas(at, [box.x_max * image.width, box.y_max * image.height]);
    const rectangle = [x, y, right - x, bottom - y];
    const lines = box.selected ? [["rgb(0 0 0 / 75%)", 5], ["#f59e0b", 2.5]] : [["rgb(0 0 0 / 40%)", 3], ["rgb(229 231 235 / 55%)", 1]];
    for (const [colour, width] of lines) {
      context.strokeStyle = colour;
      context.lineWidth = width * ratio;
      context.strokeRect(...rectangle);
    }
  }
}

/** Map and boxes over an image, each shown or hidden. */
export class Layers {
  boxes = []; // {x_min, y_min, x_max, y_max, selected}, in shares of the image's sides
  on = { map: true, boxes: true };
  #map = null; // {side, values, box}
  #heat = document.createElement("canvas");

  clear() {
    this.#map = null;
    this.boxes = [];
  }

  show(map) {
    this.#map = map;
    this.on.map = true;
    if (map) drawHeat(this.#heat, map);
  }

  /** Show or hide the map or the boxes; returns false if there is nothing to show. */
  toggle(name) {
    if (!this.offered[name]) return false;
    this.on[name] = !this.on[name];
    return true;
  }

  get offered() {
    return { map: Boolean(this.#map), boxes: this.boxes.length > 0 };
  }

  get mapped() {
    return Boolean(this.#map) && this.on.map;
  }

  /** Number of boxes on display. */
  get boxed() {
    return this.on.boxes ? this.boxes.length : 0;
  }

  paint(context, image, view, strength) {
    if (this.mapped) paintHeat(context, this.#heat, this.#map.box, image, view, strength);
    if (this.on.boxes) paintBoxes(context, this.boxes, image, view);
  }
}
