// Mouse, touch and keys of a viewer.
const WHEEL = 100; // pixels of the wheel for one step of the zoom

export function listen(viewer) {
  const { canvas } = viewer;
  const pointers = new Map(); // id -> {at, pan, measuring}
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
    const measuring = !pan && !pointers.size && Boolean(viewer.measuring.kind);
    pointers.set(event.pointerId, { at: place(event), pan, measuring });
    if (measuring) viewer.measuring.press(place(event));
    event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => {
    const at = place(event);
    viewer.point(at);
    if (viewer.measuring.kind && pointers.size < 2) viewer.measuring.move(at);
    const pointer = pointers.get(event.pointerId);
    if (!pointer) return;
    if (pointers.size === 2) pinch(event, pointer, at);
    else if (pointer.pan) viewer.pan(at[0] - pointer.at[0], at[1] - pointer.at[1]);
    else if (!pointer.measuring) viewer.shift((2 * (at[0] - pointer.at[0])) / canvas.width, (2 * (at[1] - pointer.at[1])) / canvas.height);
    pointer.at = at;
  });
  canvas.addEventListener("pointerup", (event) => {
    if (pointers.get(event.pointerId)?.measuring && viewer.measuring.kind) viewer.measuring.release(place(event));
    pointers.delete(event.pointerId);
  });
  canvas.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
  canvas.addEventListener("pointerleave", () => viewer.point(null));

  const step = () => canvas.width / 20;
  const keys = {
    "+": () => viewer.zoomIn(), "=": () => viewer.zoomIn(), "-": () => viewer.zoomOut(),
    ArrowLeft: () => viewer.pan(step(), 0), ArrowRight: () => viewer.pan(-step(), 0), ArrowUp: () => viewer.pan(0, step()), ArrowDown: () => viewer.pan(0, -step()),
    "[": () => viewer.shift(-0.05, 0), "]": () => viewer.shift(0.05, 0), "{": () => viewer.shift(0, -0.05), "}": () => viewer.shift(0, 0.05),
    i: () => viewer.invert(), r: () => viewer.reset(), f: () => viewer.fit(), o: () => viewer.oneToOne(), h: () => viewer.toggleMap(), b: () => viewer.toggleBoxes(),
    t: () => viewer.rotate(), l: () => viewer.flip(), g: () => viewer.magnify(), m: () => viewer.measure("length"), c: () => viewer.measure("cardiothoracic"),
  };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (viewer.measuring.key(event)) {
      event.preventDefault();
      return;
    }
    if (event.key === " ") spaced = true;
    const act = keys[event.key] ?? (/^[1-9]$/.test(event.key) ? () => viewer.preset(Number(event.key) - 1) : null);
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
