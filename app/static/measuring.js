// Measurements on an image: lengths, and the cardiothoracic ratio (width of the heart over width of the chest).
// Points are image pixels, the corner of the first pixel at (0, 0). They are set by mouse, touch or keyboard.
import { matrix, toCanvas, toImage } from "./geometry.js";

const STEPS = {
  length: ["Set the first end", "Set the other end"],
  cardiothoracic: ["Heart: set the right border", "Heart: set the left border", "Chest: set the inner right border", "Chest: set the inner left border"],
};
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const COARSE = 10; // screen pixels of an arrow key; with Shift, one
const CLICK = 4; // screen pixels: a shorter drag is a click
const NEAR = 12; // screen pixels: so near to an end of a kept measurement, the pointer takes it (24 px across, WCAG 2.5.8)
const COLOURS = { plain: "#67e8f9", selected: "#f59e0b", begun: "#fde68a" };

/** Describe a measurement's value with its unit. */
export function valueOf({ kind, value, unit }) {
  if (!Number.isFinite(value)) return "";
  if (kind === "cardiothoracic") return value.toFixed(2);
  return unit === "mm" ? `${value.toFixed(1)} mm` : `${Math.round(value)} ${unit}`;
}

export const TITLES = { length: "Length", cardiothoracic: "Cardiothoracic ratio" };

export class Measuring {
  kind = null; // of the measurement that is being made
  points = [];
  cursor = null; // canvas point of the crosshair that the keys move
  moved = null; // {one, end, points}: kept measurement, one end of which follows the pointer

  /**
   * @param host: has `place()` ({image, view, canvas} or null), `draw()`, `say(text)`, `kept()` (measurements whose ends
   * can be moved) and `measured(kind, points, id)`, where the id is that of a measurement that was changed.
   */
  constructor(host) {
    this.host = host;
  }

  /** Begin a measurement; the same kind again ends it. */
  begin(kind) {
    const end = this.kind === kind || !this.host.place();
    this.kind = end ? null : kind;
    this.points = [];
    this.cursor = this.pressed = null;
    this.#tell();
  }

  stop() {
    if (this.kind) this.begin(this.kind);
  }

  #tell() {
    const step = this.kind && STEPS[this.kind][this.points.length];
    this.host.say(step ? `${step} (${this.points.length + 1} of ${STEPS[this.kind].length}): drag, click, or arrows and Enter. Esc ends.` : "");
    this.host.draw();
  }

  #image(at) {
    const { image, view } = this.host.place();
    const [x, y] = toImage(matrix(image, view), at);
    return [Math.min(Math.max(x, 0), image.width), Math.min(Math.max(y, 0), image.height)];
  }

  /** Return the kept measurement and the number of its end near a point of the canvas, or null. */
  near(at) {
    const where = this.kind ? null : this.host.place();
    if (!where) return null;
    const transform = matrix(where.image, where.view);
    let found = null;
    let least = NEAR * (devicePixelRatio || 1);
    for (const one of this.host.kept()) {
      if (one.image !== where.image.id) continue;
      for (const [end, point] of one.points.entries()) {
        const [x, y] = toCanvas(transform, point);
        const distance = Math.hypot(x - at[0], y - at[1]);
        if (distance <= least) [found, least] = [{ one, end }, distance];
      }
    }
    return found;
  }

  /** Take the end of a kept measurement near a point of the canvas; returns true if there is one. */
  take(at) {
    const found = this.near(at);
    this.moved = found && { ...found, points: found.one.points };
    return Boolean(found);
  }

  drag(at) {
    const { end, points } = this.moved;
    this.moved.points = points.with(end, this.#image(at));
    this.host.draw();
  }

  /** Let go of a moved end; `kept` is false if it returns to its old place. */
  drop(kept = true) {
    const { one, end, points } = this.moved;
    this.moved = null;
    const other = points[end ^ 1];
    const changed = points !== one.points && Math.hypot(points[end][0] - other[0], points[end][1] - other[1]) >= 0.5;
    if (kept && changed) this.host.measured(one.kind, rounded(points), one.id);
    this.host.draw();
  }

  press(at) {
    this.cursor = at;
    this.pressed = at;
    if (this.points.length % 2 === 0) this.#add(at);
    this.host.draw();
  }

  move(at) {
    this.cursor = at;
    this.host.draw();
  }

  release(at) {
    const dragged = this.pressed && Math.hypot(at[0] - this.pressed[0], at[1] - this.pressed[1]) > CLICK * (devicePixelRatio || 1);
    // a click sets one end, a drag both
    if (this.pressed && this.points.length % 2 && (dragged || !this.fresh)) this.#add(at);
    this.pressed = null;
    this.fresh = false;
  }

  #add(at) {
    const point = this.#image(at);
    const before = this.points.at(-1);
    if (this.points.length % 2 && Math.hypot(point[0] - before[0], point[1] - before[1]) < 0.5) return; // no line
    this.fresh = this.points.length % 2 === 0;
    this.points.push(point);
    if (this.points.length < STEPS[this.kind].length) {
      this.#tell();
      return;
    }
    const { kind, points } = this;
    this.begin(kind);
    this.host.measured(kind, rounded(points));
  }

  /** Take a key; returns true if it was one of this tool's. */
  key(event) {
    if (this.moved && event.key === "Escape") {
      this.drop(false);
      return true;
    }
    if (!this.kind) return false;
    const { canvas } = this.host.place();
    const arrow = ARROWS[event.key];
    if (arrow) {
      const [x, y] = this.cursor ?? [canvas.width / 2, canvas.height / 2];
      const step = event.shiftKey ? 1 : COARSE * (devicePixelRatio || 1);
      this.cursor = [Math.min(Math.max(x + arrow[0] * step, 0), canvas.width), Math.min(Math.max(y + arrow[1] * step, 0), canvas.height)];
    } else if (event.key === "Enter") {
      this.cursor ??= [canvas.width / 2, canvas.height / 2];
      this.#add(this.cursor);
    } else if (event.key === "Backspace" || event.key === "Delete") {
      this.points.pop();
      this.#tell();
    } else if (event.key === "Escape") this.stop();
    else return false;
    this.host.draw();
    return true;
  }

  /** Paint the kept measurements of the image, and the one that is being made. */
  paint(context, kept, selected) {
    const { image, view, canvas } = this.host.place();
    const at = matrix(image, view);
    for (const one of kept) {
      if (one.image !== image.id) continue;
      const points = (this.moved?.one.id === one.id ? this.moved.points : one.points).map((point) => toCanvas(at, point));
      if (this.moved?.one.id === one.id) {
        paintLines(context, points, COLOURS.begun, "");
        continue;
      }
      const label = one.kind === "cardiothoracic" ? `CTR ${valueOf(one)}` : valueOf(one);
      paintLines(context, points, one.id === selected ? COLOURS.selected : COLOURS.plain, label);
    }
    if (!this.kind) return;
    const points = this.points.map((point) => toCanvas(at, point));
    if (points.length % 2 && this.cursor) points.push(this.cursor);
    paintLines(context, points, COLOURS.begun, "");
    if (this.cursor) paintCross(context, this.cursor, canvas);
  }
}

const rounded = (points) => points.map((one) => one.map((value) => Math.round(value * 100) / 100));

function stroke(context, path, colour) {
  const ratio = devicePixelRatio || 1;
  // dark edges keep the lines visible on bright pixels
  for (const [style, width] of [["rgb(0 0 0 / 70%)", 4], [colour, 1.5]]) {
    context.strokeStyle = style;
    context.lineWidth = width * ratio;
    context.stroke(path);
  }
}

/** Paint lines between pairs of points, with a tick at each end and a label at the first line. */
function paintLines(context, points, colour, label) {
  const ratio = devicePixelRatio || 1;
  const path = new Path2D();
  for (let number = 0; number < points.length; number += 2) {
    const [start, end] = [points[number], points[number + 1] ?? points[number]];
    const length = Math.hypot(end[0] - start[0], end[1] - start[1]) || 1;
    const [across, down] = [(-(end[1] - start[1]) / length) * 6 * ratio, ((end[0] - start[0]) / length) * 6 * ratio];
    path.moveTo(...start);
    path.lineTo(...end);
    for (const [x, y] of [start, end]) {
      path.moveTo(x - across, y - down);
      path.lineTo(x + across, y + down);
    }
  }
  stroke(context, path, colour);
  if (!label) return;
  const [x, y] = points[0][0] > points[1][0] ? points[0] : points[1];
  context.font = `${13 * ratio}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  const width = context.measureText(label).width;
  const left = Math.min(x + 10 * ratio, context.canvas.width - width - 6 * ratio);
  context.fillStyle = "rgb(0 0 0 / 70%)";
  context.fillRect(left - 4 * ratio, y - 10 * ratio, width + 8 * ratio, 20 * ratio);
  context.fillStyle = colour;
  context.fillText(label, left, y);
}

function paintCross(context, [x, y]) {
  const ratio = devicePixelRatio || 1;
  const path = new Path2D();
  for (const [across, down] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
    path.moveTo(x + 4 * across * ratio, y + 4 * down * ratio);
    path.lineTo(x + 14 * across * ratio, y + 14 * down * ratio);
  }
  stroke(context, path, COLOURS.begun);
}
