// Viewer for 16-bit radiographs on a canvas: window and level, zoom, pan, inversion, 1:1, maps and boxes.
// Each frame processes only the visible pixels, at the level of detail that the screen needs.
import { drawHeat, paintBoxes, paintHeat } from "./overlays.js";
import { brightness, fit, levelFor, pyramid } from "./pixels.js";

const ZOOM_STEP = 1.15;
const MAX_SCALE = 40; // screen pixels per image pixel

export function createViewer(root, { label }) {
  return new Viewer(root, label);
}

function make(tag, className, properties = {}) {
  return Object.assign(document.createElement(tag), { className }, properties);
}

class Viewer {
  #image = null; // description of the image that is shown or being loaded
  #levels = null;
  #loading = null; // AbortController
  #window = null; // {kind, center, width, table, own}
  #words = null;
  #inverted = false;
  #view = { scale: 1, x: 0, y: 0 }; // device pixels per image pixel, and position of the image's corner
  #fitted = true;
  #map = null;
  #mapShown = true;
  #boxes = [];
  #boxesShown = true;
  #partner = null;
  #frame = 0;
  #frameMs = 0;
  #pointers = new Map();
  #buffer = document.createElement("canvas");
  #heat = document.createElement("canvas");
  #cursor = null;

  constructor(root, label) {
    this.root = root;
    this.label = label;
    root.classList.add("lr-viewer");
    this.canvas = make("canvas", "lr-canvas", { tabIndex: 0 });
    this.canvas.setAttribute("role", "img");
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.hud = make("div", "lr-hud");
    this.message = make("div", "lr-message");
    this.tools = make("div", "lr-toolbar");
    this.tools.setAttribute("role", "toolbar");
    this.tools.setAttribute("aria-label", `${label}: view`);
    this.presets = make("select", "lr-presets");
    this.presets.setAttribute("aria-label", `${label}: window`);
    this.presets.addEventListener("change", () => this.#preset(Number(this.presets.value)));
    this.strength = make("input", "lr-strength", { type: "range", min: 0, max: 100, value: 60 });
    this.strength.setAttribute("aria-label", `${label}: strength of the map`);
    this.strength.addEventListener("input", () => this.#draw());
    this.#tool("−", "Zoom out (-)", () => this.#zoom(1 / ZOOM_STEP));
    this.#tool("+", "Zoom in (+)", () => this.#zoom(ZOOM_STEP));
    this.#tool("Fit", "Fit into the window (f)", () => this.#fit());
    this.#tool("1:1", "1:1, one image pixel for each screen pixel (o)", () => this.#oneToOne());
    this.#tool("Invert", "Invert (i)", () => this.#invert());
    this.#tool("Reset", "Reset window, zoom and inversion (r)", () => this.reset());
    this.tools.append(this.presets);
    this.heatButton = this.#tool("Map", "Show or hide the map (h)", () => this.#toggleMap());
    this.boxesButton = this.#tool("Boxes", "Show or hide the boxes (b)", () => this.#toggleBoxes());
    this.tools.append(this.strength);
    const stage = make("div", "lr-stage");
    stage.append(this.canvas, this.hud, this.message);
    root.replaceChildren(this.tools, stage);
    this.stage = stage;
    this.#listen();
    new ResizeObserver(() => this.#resize()).observe(stage);
    this.clear();
  }

  /** Show an image, or nothing. The old image is removed at once; a load that finishes too late is dropped. */
  async show(image) {
    this.clear();
    if (!image) return;
    this.#image = image;
    this.message.textContent = "Loading …";
    const loading = new AbortController();
    this.#loading = loading;
    this.#publish();
    try {
      const answer = await fetch(image.url, { signal: loading.signal });
      if (!answer.ok) throw new Error(String(answer.status));
      const bytes = await answer.arrayBuffer();
      if (this.#loading !== loading) return;
      if (bytes.byteLength !== 2 * image.width * image.height) throw new Error("size");
      this.#levels = pyramid(new Uint16Array(bytes), image.width, image.height);
    } catch (error) {
      if (this.#loading !== loading) return;
      this.#loading = null;
      this.message.textContent = "The image could not be loaded.";
      this.#publish();
      return;
    }
    this.message.textContent = "";
    this.presets.replaceChildren(...image.presets.map((preset, number) => make("option", "", { value: String(number), textContent: `${number + 1} ${preset.label}` })));
    this.canvas.setAttribute("aria-label", `${this.label}: ${image.description ?? image.id}`);
    this.tools.classList.remove("lr-off");
    this.#join();
  }

  clear() {
    this.#loading?.abort();
    this.#loading = null;
    this.#image = this.#levels = this.#window = this.#words = this.#map = this.#cursor = null;
    this.#boxes = [];
    this.#inverted = false;
    this.#fitted = true;
    this.message.textContent = "";
    this.hud.textContent = "";
    this.presets.replaceChildren();
    this.tools.classList.add("lr-off");
    this.canvas.setAttribute("aria-label", `${this.label}: no image`);
    this.#showMapTools();
    this.#paint();
  }

  /** Show a map {side, values, box} over the image; null removes it. */
  overlay(map) {
    this.#map = map;
    this.#mapShown = true;
    if (map) drawHeat(this.#heat, map);
    this.#showMapTools();
    this.#draw();
  }

  /** Show boxes {x_min, y_min, x_max, y_max, selected}, in shares of the image's sides, over the image. */
  boxes(boxes) {
    this.#boxes = boxes;
    this.#showMapTools();
    this.#draw();
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
    this.#preset(0);
    this.#fit();
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
    const base = this.#levels && fit(this.#image.width, this.#image.height, this.canvas.width, this.canvas.height).scale;
    return {
      id: this.#image?.id ?? null, painted: this.#levels ? this.#image.id : null, zoom: base ? round(this.#view.scale / base) : 1,
      scale: round(this.#view.scale), x: round(this.#view.x), y: round(this.#view.y), center: this.#window && round(this.#window.center),
      width: this.#window && round(this.#window.width), inverted: this.#inverted, overlay: Boolean(this.#map && this.#mapShown),
      boxes: this.#boxesShown ? this.#boxes.length : 0,
      frameMs: round(this.#frameMs), error: Boolean(this.#image && !this.#levels && !this.#loading),
    };
  }

  #tool(text, title, act) {
    const button = make("button", "lr-tool", { type: "button", textContent: text, title });
    button.setAttribute("aria-label", `${this.label}: ${title}`);
    button.addEventListener("click", act);
    this.tools.append(button);
    return button;
  }

  #showMapTools() {
    this.heatButton.hidden = this.strength.hidden = !this.#map;
    this.heatButton.setAttribute("aria-pressed", String(this.#mapShown));
    this.boxesButton.hidden = !this.#boxes.length;
    this.boxesButton.setAttribute("aria-pressed", String(this.#boxesShown));
  }

  #toggleBoxes() {
    this.#boxesShown = !this.#boxesShown;
    this.#showMapTools();
    this.#draw();
  }

  #toggleMap() {
    this.#mapShown = !this.#mapShown;
    this.#showMapTools();
    this.#draw();
  }

  #preset(number) {
    const preset = this.#image?.presets[number];
    if (!preset || !this.#levels) return;
    const table = preset.table && Uint8Array.from(atob(preset.table), (one) => one.charCodeAt(0));
    this.presets.value = String(number);
    this.#setWindow({ ...preset, table, own: { center: preset.center, width: preset.width } });
    this.#leadWindow();
  }

  #setWindow(window) {
    this.#window = { ...window, width: Math.min(Math.max(window.width, 1), 1e6), center: Math.min(Math.max(window.center, -1e6), 1e6) };
    this.#words = null;
    this.#draw();
  }

  /** Change the window by shares of the preset's width. */
  #shift(width, center) {
    if (!this.#window) return;
    const { own } = this.#window;
    this.#setWindow({ ...this.#window, width: this.#window.width + width * own.width, center: this.#window.center + center * own.width });
    this.#leadWindow();
  }

  #invert() {
    if (!this.#levels) return;
    this.#inverted = !this.#inverted;
    this.#words = null;
    this.#draw();
  }

  #fit() {
    if (!this.#levels) return;
    this.#view = fit(this.#image.width, this.#image.height, this.canvas.width, this.canvas.height);
    this.#fitted = true;
    this.#draw();
    this.#lead();
  }

  #oneToOne() {
    this.#zoom(1 / this.#view.scale);
  }

  /** Zoom by a factor around a point of the canvas, by default its centre. */
  #zoom(factor, x = this.canvas.width / 2, y = this.canvas.height / 2) {
    if (!this.#levels) return;
    const least = fit(this.#image.width, this.#image.height, this.canvas.width, this.canvas.height).scale / 4;
    const scale = Math.min(Math.max(this.#view.scale * factor, Math.min(least, 1)), MAX_SCALE);
    const real = scale / this.#view.scale;
    this.#view = { scale, x: x - (x - this.#view.x) * real, y: y - (y - this.#view.y) * real };
    this.#fitted = false;
    this.#draw();
    this.#lead();
  }

  #pan(dx, dy) {
    if (!this.#levels) return;
    this.#view = { ...this.#view, x: this.#view.x + dx, y: this.#view.y + dy };
    this.#fitted = false;
    this.#draw();
    this.#lead();
  }

  /** Show the same part in the linked viewer: equal zoom relative to the fit, equal centre relative to the image. */
  #lead() {
    const other = this.#partner;
    if (!other?.#levels || !this.#levels) return;
    const own = fit(this.#image.width, this.#image.height, this.canvas.width, this.canvas.height);
    const its = fit(other.#image.width, other.#image.height, other.canvas.width, other.canvas.height);
    const middle = [(this.canvas.width / 2 - this.#view.x) / this.#view.scale / this.#image.width, (this.canvas.height / 2 - this.#view.y) / this.#view.scale / this.#image.height];
    const scale = (its.scale * this.#view.scale) / own.scale;
    other.#view = { scale, x: other.canvas.width / 2 - middle[0] * other.#image.width * scale, y: other.canvas.height / 2 - middle[1] * other.#image.height * scale };
    other.#fitted = this.#fitted;
    other.#draw();
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
    if (this.#fitted && this.#levels) this.#fit();
    else this.#view = { ...this.#view, x: this.#view.x + dx, y: this.#view.y + dy };
    this.#paint();
  }

  #draw() {
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
      this.#paintImage();
      if (this.#map && this.#mapShown) paintHeat(this.context, this.#heat, this.#map.box, this.#image, this.#view, Number(this.strength.value) / 100);
      if (this.#boxesShown) paintBoxes(this.context, this.#boxes, this.#image, this.#view);
      this.#frameMs = performance.now() - start;
    }
    this.#publish();
  }

  #paintImage() {
    const { context, canvas } = this;
    const { scale, x, y } = this.#view;
    const level = this.#levels[levelFor(this.#levels, scale)];
    const across = this.#image.width / level.width; // image pixels per pixel of the level
    const down = this.#image.height / level.height;
    const left = Math.max(0, Math.floor(-x / scale / across));
    const top = Math.max(0, Math.floor(-y / scale / down));
    const right = Math.min(level.width, Math.ceil((canvas.width - x) / scale / across));
    const bottom = Math.min(level.height, Math.ceil((canvas.height - y) / scale / down));
    const width = right - left;
    const height = bottom - top;
    if (width <= 0 || height <= 0) return;
    this.#words ??= brightness(this.#window, this.#inverted);
    const words = this.#words;
    const part = new ImageData(width, height);
    const to = new Uint32Array(part.data.buffer);
    for (let row = 0, at = 0; row < height; row += 1) {
      let from = (top + row) * level.width + left;
      for (let end = at + width; at < end; at += 1, from += 1) to[at] = words[level.values[from]];
    }
    this.#buffer.width = width;
    this.#buffer.height = height;
    this.#buffer.getContext("2d").putImageData(part, 0, 0);
    context.imageSmoothingEnabled = scale < 3;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.#buffer, x + left * across * scale, y + top * down * scale, width * across * scale, height * down * scale);
  }

  #publish() {
    const state = this.state();
    this.root.dataset.state = JSON.stringify(state);
    if (!this.#levels || !this.#window) return;
    let value = "";
    if (this.#cursor) {
      const column = Math.floor((this.#cursor[0] - this.#view.x) / this.#view.scale);
      const row = Math.floor((this.#cursor[1] - this.#view.y) / this.#view.scale);
      if (column >= 0 && row >= 0 && column < this.#image.width && row < this.#image.height) {
        value = `  (${column}, ${row}): ${this.#levels[0].values[row * this.#image.width + column]}`;
      }
    }
    this.hud.textContent = `W ${Math.round(state.width)}  L ${Math.round(state.center)}  ${Math.round(100 * this.#view.scale)} %${this.#inverted ? "  inverted" : ""}${value}`;
  }

  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    const ratio = this.canvas.width / box.width;
    return [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
  }

  #listen() {
    const { canvas } = this;
    let spaced = false;
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", () => this.#fit());
    canvas.addEventListener("wheel", (event) => {
      if (!this.#levels) return;
      event.preventDefault();
      this.#zoom(ZOOM_STEP ** (-event.deltaY / 100), ...this.#place(event));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      canvas.focus({ preventScroll: true });
      this.#pointers.set(event.pointerId, { at: this.#place(event), pan: event.button !== 0 || event.shiftKey || spaced });
      event.preventDefault();
    });
    canvas.addEventListener("pointermove", (event) => {
      const at = this.#place(event);
      this.#cursor = at;
      const pointer = this.#pointers.get(event.pointerId);
      if (!pointer) return this.#levels && this.#publish();
      const [dx, dy] = [at[0] - pointer.at[0], at[1] - pointer.at[1]];
      if (this.#pointers.size === 2) {
        const other = [...this.#pointers].find(([id]) => id !== event.pointerId)[1].at;
        const distance = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]) || 1;
        this.#zoom(distance(at) / distance(pointer.at), (pointer.at[0] + other[0]) / 2, (pointer.at[1] + other[1]) / 2);
        this.#pan(dx / 2, dy / 2);
      } else if (pointer.pan) this.#pan(dx, dy);
      else this.#shift((2 * dx) / canvas.width, (2 * dy) / canvas.height);
      pointer.at = at;
      return null;
    });
    for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (event) => this.#pointers.delete(event.pointerId));
    canvas.addEventListener("pointerleave", () => {
      this.#cursor = null;
      this.#publish();
    });
    const step = () => canvas.width / 20;
    const keys = {
      "+": () => this.#zoom(ZOOM_STEP), "=": () => this.#zoom(ZOOM_STEP), "-": () => this.#zoom(1 / ZOOM_STEP),
      ArrowLeft: () => this.#pan(step(), 0), ArrowRight: () => this.#pan(-step(), 0), ArrowUp: () => this.#pan(0, step()), ArrowDown: () => this.#pan(0, -step()),
      i: () => this.#invert(), r: () => this.reset(), f: () => this.#fit(), o: () => this.#oneToOne(), h: () => this.#map && this.#toggleMap(), b: () => this.#boxes.length && this.#toggleBoxes(),
      "[": () => this.#shift(-0.05, 0), "]": () => this.#shift(0.05, 0), "{": () => this.#shift(0, -0.05), "}": () => this.#shift(0, 0.05),
    };
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === " ") spaced = true;
      const act = keys[event.key] ?? (/^[1-9]$/.test(event.key) ? () => this.#preset(Number(event.key) - 1) : null);
      if (act || event.key === " ") event.preventDefault();
      act?.();
    });
    canvas.addEventListener("keyup", (event) => {
      if (event.key === " ") spaced = false;
    });
    canvas.addEventListener("blur", () => {
      spaced = false;
    });
  }
}

function round(value) {
  return Math.round(value * 1000) / 1000;
}
