// Viewer for 16-bit radiographs on a canvas: window and level, zoom, pan, turns, inversion, magnifier, maps, boxes and
// measurements. Each frame processes only the visible pixels, at the level of detail that the screen needs.
import { h } from "./dom.js";
import { centred, centreOf, changedAround, turned } from "./geometry.js";
import { listen } from "./input.js";
import { load, remembered } from "./loading.js";
import { Measuring } from "./measuring.js";
import { Layers } from "./overlays.js";
import { describe, paintImage, paintLens, valueAt } from "./painting.js";
import { brightness, fit } from "./pixels.js";
import { Stage } from "./stage.js";
import { Toolbar } from "./toolbar.js";
import { alike, limited, shifted, windowOf } from "./windows.js";

const ZOOM_STEP = 1.15;
const MAX_SCALE = 40; // screen pixels per image pixel
/**
 * Create a viewer. `measured(kind, points, id)` is called with each finished measurement, with the id of one that was
 * changed; `keys` is false if the page sends the commands of input.js.
 */
export function createViewer(root, { label, measured = () => {}, keys = true }) {
  return new Viewer(root, label, measured, keys);
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
  #layers = new Layers();
  #measurements = { kept: [], selected: null, movable: false };
  #lens = false;
  #partner = null;
  #frame = 0;
  #frameMs = 0;
  #cursor = null;

  constructor(root, label, measured, keys) {
    this.root = root;
    this.label = label;
    root.classList.add("lr-viewer");
    this.stage = new Stage(label);
    this.canvas = this.stage.canvas;
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.measuring = new Measuring({
      place: () => this.#levels && { image: this.#image, view: this.#view, canvas: this.canvas },
      draw: () => this.draw(),
      say: (text) => this.#hint(text),
      kept: () => (this.#measurements.movable ? this.#measurements.kept : []),
      measured,
    });
    this.tools = new Toolbar(this);
    this.stage.element.append(this.tools.strength);
    root.replaceChildren(this.tools.element, this.stage.element);
    listen(this, keys);
    new ResizeObserver(() => this.#resize()).observe(this.stage.element);
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
    this.stage.name(image.description ?? image.id);
    const known = remembered(image.id);
    if (known) {
      this.#take(known, true);
      return;
    }
    this.stage.note("Loading …");
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
    this.#changed();
  }

  #failed() {
    this.#loading = null;
    const again = h("button", { class: "lr-button", type: "button", onclick: () => this.show(this.#image) }, "Load again");
    this.#note(this.#levels ? "Only a preview is shown: the full image could not be loaded. " : "The image could not be loaded. ", again);
    this.#publish();
  }

  #note(text, ...more) {
    this.stage.note(text, ...more);
    this.stage.message.classList.toggle("lr-low", this.shown);
  }

  #hint(text) {
    this.stage.hint.textContent = text;
    this.#showTools();
  }

  clear() {
    this.#loading?.abort();
    this.#loading = null;
    this.#image = this.#levels = this.#window = this.#words = this.#cursor = null;
    this.#layers.clear();
    this.#measurements = { kept: [], selected: null, movable: false };
    this.measuring.moved = null;
    this.#inverted = this.#full = this.#lens = false;
    this.#fitted = true;
    this.#view = { scale: 1, x: 0, y: 0, turns: 0, flipped: false };
    this.measuring.kind = null;
    this.#note("");
    this.stage.hud.textContent = "";
    this.tools.offer([]);
    this.stage.name("no image");
    this.#hint("");
    this.#paint();
  }

  /** Show a map {side, values, box} over the image; null removes it. */
  overlay(map) {
    this.#layers.show(map);
    this.#changed();
  }

  /** Show boxes {x_min, y_min, x_max, y_max, selected}, in shares of the image's sides, over the image. */
  boxes(boxes) {
    this.#layers.boxes = boxes;
    this.#changed();
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
      width: this.#window && round(this.#window.width), inverted: this.#inverted, overlay: this.#layers.mapped,
      boxes: this.#layers.boxed, measurements: this.#measurements.kept.filter((one) => one.image === this.#image?.id).length,
      tool: this.measuring.kind, magnifier: this.#lens, frameMs: round(this.#frameMs), error: Boolean(this.#image && !this.#full && !this.#loading),
    };
  }

  #changed() {
    this.#showTools();
    this.draw();
  }

  #showTools() {
    const { turns, flipped } = this.#view;
    this.tools.update({
      usable: this.shown, ...this.#layers.offered,
      pressed: {
        ...this.#layers.on, invert: this.#inverted, rotate: turns > 0, flip: flipped, magnifier: this.#lens,
        length: this.measuring.kind === "length", cardiothoracic: this.measuring.kind === "cardiothoracic",
      },
    });
    this.stage.mark(this.shown ? this.#image.sides : null, this.#view);
  }

  toggleBoxes() {
    if (this.#layers.toggle("boxes")) this.#changed();
  }

  toggleMap() {
    if (this.#layers.toggle("map")) this.#changed();
  }

  magnify() {
    if (!this.#levels) return;
    this.#lens = !this.#lens;
    this.#changed();
  }

  /** Begin or end a measurement. */
  measure(kind) {
    this.measuring.begin(kind);
    if (this.measuring.kind) this.canvas.focus({ preventScroll: true });
  }

  preset(number) {
    const preset = this.#image?.presets[number];
    if (!preset || !this.#levels) return;
    this.tools.presets.value = String(number);
    this.#setWindow(windowOf(preset));
    this.#leadWindow();
  }

  #setWindow(window) {
    this.#window = limited(window);
    this.#words = null;
    this.draw();
  }

  /** Change the window by shares of the preset's width. */
  shift(width, center) {
    if (!this.#window) return;
    this.#setWindow(shifted(this.#window, width, center));
    this.#leadWindow();
  }

  invert() {
    if (!this.#levels) return;
    this.#inverted = !this.#inverted;
    this.#words = null;
    this.#changed();
  }

  /** Turn by a change of geometry.js, `quarter` or `mirrored`; what is in the middle stays there. */
  orient(change) {
    if (!this.#levels) return;
    this.#view = changedAround(this.#image, this.#view, change, [this.canvas.width / 2, this.canvas.height / 2]);
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
    const scale = (other.#whole().scale * this.#view.scale) / this.#whole().scale;
    other.#view = centred(other.#image, { ...other.#view, scale }, other.canvas, centreOf(this.#image, this.#view, this.canvas));
    other.#fitted = this.#fitted;
    other.draw();
  }

  /** Change the linked viewer's window by the same shares of its preset's width. */
  #leadWindow() {
    const other = this.#partner;
    if (!other?.#window || !this.#window) return;
    other.#setWindow(alike(this.#window, other.#window));
  }

  #resize() {
    const ratio = devicePixelRatio || 1;
    const width = Math.round(this.stage.element.clientWidth * ratio);
    const height = Math.round(this.stage.element.clientHeight * ratio);
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
      this.#layers.paint(context, this.#image, this.#view, Number(this.tools.strength.value) / 100);
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
    this.stage.hud.textContent = describe(state, this.#full && this.#cursor && valueAt(this.#image, this.#view, this.#levels, this.#cursor));
  }
}

function round(value) {
  return Math.round(value * 1000) / 1000;
}
