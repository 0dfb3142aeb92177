// Pixels of the images: an 8-bit preview first, then the full depth, kept in memory by image id.
// An image is {id, width, height, url, preview}; an id names the same pixels forever.
import { pyramid } from "./pixels.js";

const KEPT_BYTES = 400 << 20;
const KEPT_PREVIEWS = 30;
const TRIES = 20;
const WAIT_MS = 1500;

const kept = new Map(); // id -> levels of full depth, least recently used first
const previews = new Map(); // id -> levels of the preview
const ahead = new Map(); // id -> promise of a load that runs ahead
let stopAhead = new AbortController();
let urgent = 0; // previews of shown images that are under way
let turn = Promise.resolve(); // full images are loaded one after another: each gets the whole line

/** Return the levels of an image if they are already here, else null. */
export function remembered(id) {
  const levels = kept.get(id);
  if (!levels) return null;
  kept.delete(id);
  kept.set(id, levels);
  return levels;
}

/**
 * Load an image at full depth, and its preview before it.
 * @param shown called with the levels of the preview, if they come first.
 * @param waiting called with true while the server cannot be reached, and with false afterwards.
 */
export async function load(image, { signal, shown, waiting = () => {} }) {
  const known = remembered(image.id);
  if (known) return known;
  if (!ahead.has(image.id)) {
    stopAhead.abort(); // what is on the screen comes first
    stopAhead = new AbortController();
  }
  if (image.preview) {
    urgent += 1;
    try {
      const small = previews.get(image.id) ?? await patiently(() => previewOf(image, signal), signal, waiting);
      if (!kept.has(image.id)) shown(small);
    } catch (error) {
      if (signal.aborted) throw error; // without a preview, the full image is waited for
    } finally {
      urgent -= 1;
    }
  }
  const early = await ahead.get(image.id)?.catch(() => null);
  if (early) return early;
  return inTurn(() => patiently(() => fullOf(image, signal), signal, waiting), signal);
}

/** Load images that are likely to be shown next, previews first; whatever is shown meanwhile goes first. */
export async function preload(images) {
  const { signal } = stopAhead;
  const missing = images.filter((one) => one && !kept.has(one.id) && !ahead.has(one.id));
  try {
    for (const one of missing) {
      if (one.preview && !previews.has(one.id)) previews.set(one.id, await previewOf(one, signal, "low"));
      if (previews.size > KEPT_PREVIEWS) previews.delete(previews.keys().next().value);
    }
    for (const one of missing) {
      const loading = inTurn(() => fullOf(one, signal, "low"), signal);
      ahead.set(one.id, loading);
      await loading.finally(() => ahead.delete(one.id));
    }
  } catch {
    // stopped, or the line is down: the images are loaded when they are shown
  }
}

/** Run a load after the one before it, and after the previews of all shown images. */
function inTurn(start, signal) {
  const mine = turn.then(async () => {
    while (urgent && !signal.aborted) await pause(20);
    signal.throwIfAborted();
    return start();
  });
  const given = new Promise((done) => signal.addEventListener("abort", done, { once: true }));
  turn = Promise.race([mine.catch(() => {}), given]); // an abandoned load holds nobody up
  return mine;
}

/** Repeat a load while the server cannot be reached. */
async function patiently(start, signal, waiting) {
  for (let number = 1; ; number += 1) {
    try {
      const found = await start();
      if (number > 1) waiting(false);
      return found;
    } catch (error) {
      if (signal.aborted || !(error instanceof TypeError) || number === TRIES) throw error;
      waiting(true);
      await pause(WAIT_MS);
      signal.throwIfAborted();
    }
  }
}

function pause(milliseconds) {
  return new Promise((done) => setTimeout(done, milliseconds));
}

async function previewOf(image, signal, priority = "high") {
  const answer = await fetch(image.preview, { signal, priority });
  if (!answer.ok) throw new Error(String(answer.status));
  const [low, high] = ["x-low", "x-high"].map((name) => Number(answer.headers.get(name) ?? NaN));
  if (!(high >= low)) throw new Error("range");
  const picture = await createImageBitmap(await answer.blob(), { colorSpaceConversion: "none" });
  const { width, height } = picture;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  picture.close();
  const { data } = context.getImageData(0, 0, width, height);
  const values = new Uint16Array(width * height);
  for (let at = 0; at < values.length; at += 1) values[at] = Math.round(low + (data[4 * at] / 255) * (high - low));
  return pyramid(values, width, height);
}

async function fullOf(image, signal, priority = "auto") {
  const answer = await fetch(image.url, { signal, priority });
  if (!answer.ok) throw new Error(String(answer.status));
  const bytes = await answer.arrayBuffer();
  if (bytes.byteLength !== 2 * image.width * image.height) throw new Error("size");
  const values = image.planes ? joined(new Uint8Array(bytes)) : new Uint16Array(bytes);
  const levels = pyramid(values, image.width, image.height);
  kept.set(image.id, levels);
  previews.delete(image.id);
  let bytesKept = 0;
  for (const [id, one] of [...kept].toReversed()) {
    bytesKept += one.reduce((sum, level) => sum + level.values.byteLength, 0);
    if (bytesKept > KEPT_BYTES && id !== image.id) kept.delete(id);
  }
  return levels;
}

/** Join a plane of high bytes and a plane of low bytes. */
function joined(bytes) {
  const values = new Uint16Array(bytes.length / 2);
  for (let at = 0; at < values.length; at += 1) values[at] = (bytes[at] << 8) | bytes[values.length + at];
  return values;
}
