// Viewer for 16-bit radiographs on a canvas: window and level, zoom, pan, turns, inversion, magnifier, maps, boxes and
// measurements. Each frame processes only the visible pixels, at the level of detail that the screen needs.
import { matrix, mirrored, quarter, rightEdge, toImage, turned } from "./geometry.js";
import { listen } from "./input.js";
import { load, remembered } from "./loading.js";
import { Measuring } from "./measuring.js";
import { drawHeat, paintBoxes, paintHeat } from "./overlays.js";
import { describe, paintImage, paintLens } from "./painting.js";
import { brightness, fit } from "./pixels.js";
import { Toolbar } from "./toolbar.js";

const ZOOM_STEP = 1.15;
const MAX_SCALE = 40; // screen pixels per image pixel
const OPPOSITE = { left: "right", right: "left", top: "bottom", bottom: "top" };
const HELP = "Radiograph. Plus and minus zoom, arrow keys move, F fits, O shows one to one. Square brackets change the window's width, curly brackets its level, digits choose a window, I inverts. T turns, L exchanges left and right, G is a magnifier, M measures a length, C the cardiothoracic ratio, R resets.";
let helps = 0;

/**
 * Create a viewer. `measured(kind, points, id)` is called with each finished measurement, with the id of one that was
 * changed; `keys` is false if the page sends the commands of input.js.
 */
export function createViewer(root, { label, measured = () => {}, keys = true }) {
  return new Viewer(root, label, measured, keys);
}

function make(tag, className, properties = {}) {
  return Object.assign(document.createElement(tag), { className }, properties);
}

class Viewer {
  #image = null; // description of the image that is shown or being loaded
  #levels = null;
  #full = false; // the levels have the full depth and size
  #loading = null; // AbortController
  #window = null; // {kind, center, width, table, own}
  #words = null;
  #inverted = false;
  #view = { scale: 1, x: 0, y: 0, turns: 0, flipped: false };
  #fitted = true;
  #map = null;
  #mapShown = true;
  #boxes = [];
  #boxesShown = true;
  #measurements = { kept: [], selected: null, movable: false };
  #lens = false;
  #partner = null;
  #frame = 0;
  #frameMs = 0;
  #heat = document.createElement("canvas");
  #cursor = null;

  constructor(root, label, measured, keys) {
    this.root = root;
    this.label = label;
    root.classList.add("lr-viewer");
    const help = make("p", "lr-for-readers", { id: `lr-help-${(helps += 1)}`, textContent: HELP });
    this.canvas = make("canvas", "lr-canvas", { tabIndex: 0 });
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-describedby", help.id);
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.hud = make("div", "lr-hud");
    this.message = make("div", "lr-message");
    this.hint = make("div", "lr-hint");
    this.hint.setAttribute("role", "status");
    this.sides = ["L", "R"].map((letter) => make("span", "lr-side", { hidden: true, textContent: letter }));
    this.measuring = new Measuring({
      place: () => this.#levels && { image: this.#image, view: this.#view, canvas: this.canvas },
      draw: () => this.draw(),
      say: (text) => this.#hint(text),
      kept: () => (this.#measurements.movable ? this.#measurements.kept : []),
      measured,
    });
    this.tools = new Toolbar(this);
    this.stage = make("div", "lr-stage");
    this.stage.append(this.canvas, ...this.sides, this.hud, this.hint, this.message, this.tools.strength, help);
    root.replaceChildren(this.tools.element, this.stage);
    listen(this, keys);
    new ResizeObserver(() => this.#resize()).observe(this.stage);
    this.clear();
  }

  get shown() {
    return Boolean(this.#levels);
  }

  /**
   * Show an image, or nothing: first its preview, then the full depth. The old image is removed at once; a load that
   * finishes too late is dropped. Resolves when pixels are shown, in either form, or have failed.
   */
  async show(image) {
    this.clear();
    if (!image) return;
    this.#image = image;
    const loading = new AbortController();
    this.#loading = loading;
    this.canvas.setAttribute("aria-label", `${this.label}: ${image.description ?? image.id}`);
    const known = remembered(image.id);
    if (known) {
      this.#take(known, true);
      return;
    }
    this.message.textContent = "Loading …";
    this.#publish();
    await new Promise((first) => {
      const current = () => this.#loading === loading;
      load(image, {
        signal: loading.signal,
        shown: (levels) => {
          if (current()) this.#take(levels, false);
          first();
        },
        waiting: (down) => current() && this.#note(down ? "The server cannot be reached: waiting …" : ""),
      }).then((levels) => current() && this.#take(levels, true), () => current() && this.#failed()).then(first);
    });
  }

  /** Show pixels: those of a preview, or of the full depth in the place of the preview's. */
  #take(levels, full) {
    const first = !this.#levels;
    this.#levels = levels;
    this.#full = full;
    if (full) this.#loading = null;
    this.#note("");
    if (first) {
      this.tools.offer(this.#image.presets);
      this.#join();
    }
    this.#showTools();
    this.draw();
  }

  #failed() {
    this.#loading = null;
    const again = make("button", "lr-button", { type: "button", textContent: "Load again" });
    again.addEventListener("click", () => this.show(this.#image));
    this.#note(this.#levels ? "Only a preview is shown: the full image could not be loaded. " : "The image could not be loaded. ", again);
    this.#publish();
  }

  #note(text, ...more) {
    this.message.replaceChildren(text, ...more);
    this.message.classList.toggle("lr-low", this.shown);
  }

  #hint(text) {
    this.hint.textContent = text;
    this.#showTools();
  }

  clear() {
    this.#loading?.abort();
    this.#loading = null;
    this.#image = this.#levels = this.#window = this.#words = this.#map = this.#cursor = null;
    this.#boxes = [];
    this.#measurements = { kept: [], selected: null, movable: false };
    this.measuring.moved = null;
    this.#inverted = this.#full = this.#lens = false;
    this.#fitted = true;
    this.#view = { scale: 1, x: 0, y: 0, turns: 0, flipped: false };
    this.measuring.kind = null;
    this.#note("");
    this.hud.textContent = "";
    this.tools.offer([]);
    this.canvas.setAttribute("aria-label", `${this.label}: no image`);
    this.#hint("");
    this.#paint();
  }

  /** Show a map {side, values, box} over the image; null removes it. */
  overlay(map) {
    this.#map = map;
    this.#mapShown = true;
    if (map) drawHeat(this.#heat, map);
    this.#showTools();
    this.draw();
  }

  /** Show boxes {x_min, y_min, x_max, y_max, selected}, in shares of the image's sides, over the image. */
  boxes(boxes) {
    this.#boxes = boxes;
    this.#showTools();
    this.draw();
  }

  /** Show measurements {id, kind, image, points, value, unit} of this image; their ends can be moved if `movable`. */
  measurements(kept, selected = null, movable = false) {
    this.#measurements = { kept, selected, movable };
    this.draw();
  }

  /** Link zoom, position and window with another viewer; null ends the link. */
  link(other) {
    const before = this.#partner;
    if (before && before !== other) before.#partner = null;
    this.#partner = other;
    if (other) {
      other.#partner = this;
      this.#lead();
      this.#leadWindow();
    }
  }

  reset() {
    if (!this.#levels) return;
    this.#inverted = false;
    this.#view = { ...this.#view, turns: 0, flipped: false };
    this.preset(0);
    this.fit();
    this.#showTools();
  }

  /** Take zoom and window over from the linked viewer after a new image was loaded. */
  #join() {
    const partner = this.#partner;
    this.#partner = null;
    this.reset();
    this.#partner = partner;
    partner?.#lead();
    partner?.#leadWindow();
  }

  state() {
    const base = this.#levels && this.#whole().scale;
    const { turns, flipped } = this.#view;
    return {
      id: this.#image?.id ?? null, painted: this.#levels ? this.#image.id : null, full: this.#full, zoom: base ? round(this.#view.scale / base) : 1,
      scale: round(this.#view.scale), x: round(this.#view.x), y: round(this.#view.y), turns, flipped, center: this.#window && round(this.#window.center),
      width: this.#window && round(this.#window.width), inverted: this.#inverted, overlay: Boolean(this.#map && this.#mapShown),
      boxes: this.#boxesShown ? this.#boxes.length : 0, measurements: this.#measurements.kept.filter((one) => one.image === this.#image?.id).length,
      tool: this.measuring.kind, magnifier: this.#lens, frameMs: round(this.#frameMs), error: Boolean(this.#image && !this.#full && !this.#loading),
    };
  }

  #showTools() {
    const { turns, flipped } = this.#view;
    this.tools.update({
      usable: this.shown, map: Boolean(this.#map), boxes: this.#boxes.length > 0,
      pressed: {
        map: this.#mapShown, boxes: this.#boxesShown, invert: this.#inverted, rotate: turns > 0, flip: flipped, magnifier: this.#lens,
        length: this.measuring.kind === "length", cardiothoracic: this.measuring.kind === "cardiothoracic",
      },
    });
    const edge = rightEdge(this.#view);
    for (const [at, side] of this.sides.entries()) {
      side.hidden = !this.shown || !this.#image.sides;
      side.textContent = "LR"[at] + (this.#image?.sides === "assumed" ? "?" : "");
      side.title = `Patient's ${at ? "right" : "left"}${this.#image?.sides === "assumed" ? ": assumed, the file does not state it" : ""}`;
      side.dataset.edge = at ? OPPOSITE[edge] : edge;
    }
  }

  toggleBoxes() {
    if (!this.#boxes.length) return;
    this.#boxesShown = !this.#boxesShown;
    this.#showTools();
    this.draw();
  }

  toggleMap() {
    if (!this.#map) return;
    this.#mapShown = !this.#mapShown;
    this.#showTools();
    this.draw();
  }

  magnify() {
    if (!this.#levels) return;
    this.#lens = !this.#lens;
    this.#showTools();
    this.draw();
  }

  /** Begin or end a measurement. */
  measure(kind) {
    this.measuring.begin(kind);
    if (this.measuring.kind) this.canvas.focus({ preventScroll: true });
  }

  preset(number) {
    const preset = this.#image?.presets[number];
    if (!preset || !this.#levels) return;
    const table = preset.table && Uint8Array.from(atob(preset.table), (one) => one.charCodeAt(0));
    this.tools.presets.value = String(number);
    this.#setWindow({ ...preset, table, own: { center: preset.center, width: preset.width } });
    this.#leadWindow();
  }

  #setWindow(window) {
    this.#window = { ...window, width: Math.min(Math.max(window.width, 1), 1e6), center: Math.min(Math.max(window.center, -1e6), 1e6) };
    this.#words = null;
    this.draw();
  }

  /** Change the window by shares of the preset's width. */
  shift(width, center) {
    if (!this.#window) return;
    const { own } = this.#window;
    this.#setWindow({ ...this.#window, width: this.#window.width + width * own.width, center: this.#window.center + center * own.width });
    this.#leadWindow();
  }

  invert() {
    if (!this.#levels) return;
    this.#inverted = !this.#inverted;
    this.#words = null;
    this.#showTools();
    this.draw();
  }

  /** Turn clockwise by a quarter, or exchange left and right; what is in the middle stays there. */
  rotate() {
    this.#orient(quarter);
  }

  flip() {
    this.#orient(mirrored);
  }

  #orient(change) {
    if (!this.#levels) return;
    const middle = [this.canvas.width / 2, this.canvas.height / 2];
    const point = toImage(matrix(this.#image, this.#view), middle);
    const view = { ...this.#view, ...change(this.#view), x: 0, y: 0 };
    const [a, b, c, d, e, f] = matrix(this.#image, view);
    this.#view = { ...view, x: middle[0] - (a * point[0] + c * point[1] + e), y: middle[1] - (b * point[0] + d * point[1] + f) };
    this.#showTools();
    if (this.#fitted) this.fit();
    this.draw();
  }

  /** Return the view that shows the whole image. */
  #whole() {
    const { width, height } = turned(this.#image, this.#view);
    return { ...this.#view, ...fit(width, height, this.canvas.width, this.canvas.height) };
  }

  fit() {
    if (!this.#levels) return;
    this.#view = this.#whole();
    this.#fitted = true;
    this.draw();
    this.#lead();
  }

  oneToOne() {
    this.zoom(1 / this.#view.scale);
  }

  zoomIn() {
    this.zoomBy(1);
  }

  zoomOut() {
    this.zoomBy(-1);
  }

  zoomBy(steps, x, y) {
    this.zoom(ZOOM_STEP ** steps, x, y);
  }

  /** Zoom by a factor around a point of the canvas, by default its centre. */
  zoom(factor, x = this.canvas.width / 2, y = this.canvas.height / 2) {
    if (!this.#levels) return;
    const scale = Math.min(Math.max(this.#view.scale * factor, Math.min(this.#whole().scale / 4, 1)), MAX_SCALE);
    const real = scale / this.#view.scale;
    this.#view = { ...this.#view, scale, x: x - (x - this.#view.x) * real, y: y - (y - this.#view.y) * real };
    this.#fitted = false;
    this.draw();
    this.#lead();
  }

  pan(dx, dy) {
    if (!this.#levels) return;
    this.#view = { ...this.#view, x: this.#view.x + dx, y: this.#view.y + dy };
    this.#fitted = false;
    this.draw();
    this.#lead();
  }

  /** Follow the pointer, for the values and the magnifier; null: it has left. */
  point(at) {
    this.#cursor = at;
    if (this.#lens) this.draw();
    else this.#publish();
  }

  /** Show the same part in the linked viewer: equal zoom relative to the fit, equal centre relative to the image. */
  #lead() {
    const other = this.#partner;
    if (!other?.#levels || !this.#levels) return;
    const [mine, its] = [turned(this.#image, this.#view), turned(other.#image, other.#view)];
    const middle = [(this.canvas.width / 2 - this.#view.x) / this.#view.scale / mine.width, (this.canvas.height / 2 - this.#view.y) / this.#view.scale / mine.height];
    const scale = (other.#whole().scale * this.#view.scale) / this.#whole().scale;
    other.#view = { ...other.#view, scale, x: other.canvas.width / 2 - middle[0] * its.width * scale, y: other.canvas.height / 2 - middle[1] * its.height * scale };
    other.#fitted = this.#fitted;
    other.draw();
  }

  /** Change the linked viewer's window by the same shares of its preset's width. */
  #leadWindow() {
    const other = this.#partner;
    if (!other?.#window || !this.#window) return;
    const { center, width, own } = this.#window;
    const its = other.#window.own;
    other.#setWindow({ ...other.#window, width: (width / own.width) * its.width, center: its.center + ((center - own.center) / own.width) * its.width });
  }

  #resize() {
    const ratio = devicePixelRatio || 1;
    const width = Math.round(this.stage.clientWidth * ratio);
    const height = Math.round(this.stage.clientHeight * ratio);
    if (!width || !height || (width === this.canvas.width && height === this.canvas.height)) return;
    const [dx, dy] = [(width - this.canvas.width) / 2, (height - this.canvas.height) / 2];
    this.canvas.width = width;
    this.canvas.height = height;
    if (this.#fitted && this.#levels) this.fit();
    else this.#view = { ...this.#view, x: this.#view.x + dx, y: this.#view.y + dy };
    this.#paint();
  }

  draw() {
    if (!this.#frame) {
      this.#frame = requestAnimationFrame(() => {
        this.#frame = 0;
        this.#paint();
      });
    }
  }

  #paint() {
    const start = performance.now();
    const { context, canvas } = this;
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (this.#levels && this.#window) {
      this.#words ??= brightness(this.#window, this.#inverted);
      const picture = { image: this.#image, levels: this.#levels, words: this.#words };
      paintImage(context, picture, this.#view, [0, 0, canvas.width, canvas.height]);
      if (this.#map && this.#mapShown) paintHeat(context, this.#heat, this.#map.box, this.#image, this.#view, Number(this.tools.strength.value) / 100);
      if (this.#boxesShown) paintBoxes(context, this.#boxes, this.#image, this.#view);
      if (this.#lens) paintLens(context, picture, this.#view, this.#cursor);
      this.measuring.paint(context, this.#measurements.kept, this.#measurements.selected);
      this.#frameMs = performance.now() - start;
    }
    this.#publish();
  }

  #publish() {
    const state = this.state();
    this.root.dataset.state = JSON.stringify(state);
    if (!this.#levels || !this.#window) return;
    this.hud.textContent = describe(state, this.#full && this.#cursor && this.#valueAt(this.#cursor));
  }

  /** Describe the pixel under a point of the canvas: (column, row): value. */
  #valueAt(point) {
    const { width, height } = this.#image;
    const [column, row] = toImage(matrix(this.#image, this.#view), point).map(Math.floor);
    if (column < 0 || row < 0 || column >= width || row >= height) return "";
    return `(${column}, ${row}): ${this.#levels[0].values[row * width + column]}`;
  }
}

function round(value) {
  return Math.round(value * 1000) / 1000;
}
