// Mouse, touch and keys of a viewer.
import { mirrored, quarter } from "./geometry.js";

const WHEEL = 100; // pixels of the wheel for one step of the zoom
const WINDOW_STEP = 0.05; // of the preset's width
const PAN_STEP = 1 / 20; // of the canvas's width

const pan = (across, down) => (viewer) => viewer.pan(across * viewer.canvas.width * PAN_STEP, down * viewer.canvas.width * PAN_STEP);

/** Commands by key: id, label, keys, and what they do with a viewer. */
export const COMMANDS = [
  ["zoom-in", "Zoom in", ["+", "="], (viewer) => viewer.zoomBy(1)],
  ["zoom-out", "Zoom out", ["-"], (viewer) => viewer.zoomBy(-1)],
  ["fit", "Fit into the window", ["f"], (viewer) => viewer.fit()],
  ["one-to-one", "1:1, one image pixel for each screen pixel", ["o"], (viewer) => viewer.oneToOne()],
  ["left", "Look further left", ["ArrowLeft"], pan(1, 0)],
  ["right", "Look further right", ["ArrowRight"], pan(-1, 0)],
  ["up", "Look further up", ["ArrowUp"], pan(0, 1)],
  ["down", "Look further down", ["ArrowDown"], pan(0, -1)],
  ["narrower", "Narrower window", ["["], (viewer) => viewer.shift(-WINDOW_STEP, 0)],
  ["wider", "Wider window", ["]"], (viewer) => viewer.shift(WINDOW_STEP, 0)],
  ["lower", "Lower level", ["{"], (viewer) => viewer.shift(0, -WINDOW_STEP)],
  ["higher", "Higher level", ["}"], (viewer) => viewer.shift(0, WINDOW_STEP)],
  ["preset", "Window of that number", ["1", "2", "3", "4", "5", "6", "7", "8", "9"], (viewer, event) => viewer.preset(Number(event.key) - 1)],
  ["invert", "Invert", ["i"], (viewer) => viewer.invert()],
  ["rotate", "Turn clockwise by 90°", ["t"], (viewer) => viewer.orient(quarter)],
  ["flip", "Exchange left and right", ["l"], (viewer) => viewer.orient(mirrored)],
  ["magnifier", "Magnifier", ["g"], (viewer) => viewer.magnify()],
  ["length", "Measure a length", ["m"], (viewer) => viewer.measure("length")],
  ["cardiothoracic", "Measure the cardiothoracic ratio", ["c"], (viewer) => viewer.measure("cardiothoracic")],
  ["map", "Show or hide the map", ["h"], (viewer) => viewer.toggleMap()],
  ["boxes", "Show or hide the boxes", ["b"], (viewer) => viewer.toggleBoxes()],
  ["reset", "Reset window, zoom, turns and inversion", ["r"], (viewer) => viewer.reset()],
];

/** Listen to mouse, touch and keys on a viewer's canvas; `ownKeys` is false if the page sends the commands. */
export function listen(viewer, ownKeys) {
  const { canvas } = viewer;
  const pointers = new Map(); // id -> {at, pan, measuring, moving}
  let spaced = false;

  function place(event) {
    const box = canvas.getBoundingClientRect();
    const ratio = canvas.width / box.width;
    return [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
  }

  function pinch(event, pointer, at) {
    const other = [...pointers].find(([id]) => id !== event.pointerId)[1].at;
    const distance = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]) || 1;
    viewer.zoom(distance(at) / distance(pointer.at), (pointer.at[0] + other[0]) / 2, (pointer.at[1] + other[1]) / 2);
    viewer.pan((at[0] - pointer.at[0]) / 2, (at[1] - pointer.at[1]) / 2);
  }

  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("dblclick", () => viewer.measuring.kind || viewer.fit());
  canvas.addEventListener("wheel", (event) => {
    if (!viewer.shown) return;
    event.preventDefault();
    viewer.zoomBy(-event.deltaY / WHEEL, ...place(event));
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    canvas.focus({ preventScroll: true });
    const pan = event.button !== 0 || event.shiftKey || spaced;
    const alone = !pan && !pointers.size;
    const measuring = alone && Boolean(viewer.measuring.kind);
    const moving = alone && viewer.measuring.take(place(event));
    pointers.set(event.pointerId, { at: place(event), pan, measuring, moving });
    if (measuring) viewer.measuring.press(place(event));
    event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => {
    const at = place(event);
    viewer.point(at);
    if (viewer.measuring.kind && pointers.size < 2) viewer.measuring.move(at);
    const pointer = pointers.get(event.pointerId);
    if (!pointer) {
      canvas.style.cursor = viewer.measuring.near(at) ? "move" : "";
      return;
    }
    if (pointer.moving) {
      if (viewer.measuring.moved) viewer.measuring.drag(at);
    } else if (pointers.size === 2) pinch(event, pointer, at);
    else if (pointer.pan) viewer.pan(at[0] - pointer.at[0], at[1] - pointer.at[1]);
    else if (!pointer.measuring) viewer.shift((2 * (at[0] - pointer.at[0])) / canvas.width, (2 * (at[1] - pointer.at[1])) / canvas.height);
    pointer.at = at;
  });
  canvas.addEventListener("pointerup", (event) => {
    const pointer = pointers.get(event.pointerId);
    if (pointer?.measuring && viewer.measuring.kind) viewer.measuring.release(place(event));
    if (pointer?.moving && viewer.measuring.moved) viewer.measuring.drop();
    pointers.delete(event.pointerId);
  });
  canvas.addEventListener("pointercancel", (event) => {
    if (pointers.get(event.pointerId)?.moving && viewer.measuring.moved) viewer.measuring.drop(false);
    pointers.delete(event.pointerId);
  });
  canvas.addEventListener("pointerleave", () => viewer.point(null));

  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (viewer.measuring.key(event)) {
      event.preventDefault();
      return;
    }
    if (event.key === " ") spaced = true;
    const act = ownKeys ? COMMANDS.find(([, , keys]) => keys.includes(event.key))?.[3] : null;
    if (act || event.key === " ") event.preventDefault();
    act?.(viewer, event);
  });
  canvas.addEventListener("keyup", (event) => {
    if (event.key === " ") spaced = false;
  });
  canvas.addEventListener("blur", () => {
    spaced = false;
  });
}
