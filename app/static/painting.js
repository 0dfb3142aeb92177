// Painting of an image on the canvas, of the magnifier, and the line of text below.
// A picture is {image, levels, words}: description, levels of detail, and the shown colour of each pixel value.
import { matrix, toImage } from "./geometry.js";
import { levelFor } from "./pixels.js";

const LENS = { radius: 110, zoom: 2.5 }; // of the magnifier, radius in CSS pixels
const buffer = document.createElement("canvas");

/** Paint the part of the image that lies in an area (left, top, right, bottom) of the canvas. */
export function paintImage(context, { image, levels, words }, view, [x0, y0, x1, y1]) {
  const transform = matrix(image, view);
  const corners = [[x0, y0], [x1, y1]].map((corner) => toImage(transform, corner));
  const level = levels[levelFor(levels, view.scale, image.width)];
  const across = image.width / level.width; // image pixels per pixel of the level
  const down = image.height / level.height;
  const left = Math.max(0, Math.floor(Math.min(corners[0][0], corners[1][0]) / across));
  const top = Math.max(0, Math.floor(Math.min(corners[0][1], corners[1][1]) / down));
  const width = Math.min(level.width, Math.ceil(Math.max(corners[0][0], corners[1][0]) / across)) - left;
  const height = Math.min(level.height, Math.ceil(Math.max(corners[0][1], corners[1][1]) / down)) - top;
  if (width <= 0 || height <= 0) return;
  const part = new ImageData(width, height);
  const to = new Uint32Array(part.data.buffer);
  for (let row = 0, at = 0; row < height; row += 1) {
    let from = (top + row) * level.width + left;
    for (let end = at + width; at < end; at += 1, from += 1) to[at] = words[level.values[from]];
  }
  buffer.width = width;
  buffer.height = height;
  buffer.getContext("2d").putImageData(part, 0, 0);
  context.save();
  context.transform(...transform);
  context.imageSmoothingEnabled = view.scale < 3;
  context.imageSmoothingQuality = "high";
  context.drawImage(buffer, left * across, top * down, width * across, height * down);
  context.restore();
}

/** Paint the magnified surroundings of the pointer, or of the canvas's middle. */
export function paintLens(context, picture, view, cursor) {
  const { width, height } = context.canvas;
  const ratio = devicePixelRatio || 1;
  const radius = Math.min(LENS.radius * ratio, width / 3, height / 3);
  const [x, y] = cursor ?? [width / 2, height / 2];
  const scale = Math.max(view.scale * LENS.zoom, 1);
  const factor = scale / view.scale;
  const circle = new Path2D();
  circle.arc(x, y, radius, 0, 2 * Math.PI);
  context.save();
  context.clip(circle);
  context.fillStyle = "#000";
  context.fill(circle);
  paintImage(context, picture, { ...view, scale, x: x - (x - view.x) * factor, y: y - (y - view.y) * factor }, [x - radius, y - radius, x + radius, y + radius]);
  context.restore();
  context.strokeStyle = "#9a9a9a";
  context.lineWidth = 1.5 * ratio;
  context.stroke(circle);
}

/** Describe a viewer's state, and the pixel under the pointer. */
export function describe({ width, center, scale, inverted, turns, flipped, full }, pixel) {
  const parts = [`W ${Math.round(width)}`, `L ${Math.round(center)}`, `${Math.round(100 * scale)} %`];
  if (inverted) parts.push("inverted");
  if (turns) parts.push(`turned ${90 * turns}°`);
  if (flipped) parts.push("left and right exchanged");
  if (!full) parts.push("preview");
  if (pixel) parts.push(pixel);
  return parts.join("  ");
}

/** Describe the pixel under a point of the canvas: (column, row): value; an empty text outside the image. */
export function valueAt(image, view, levels, point) {
  const [column, row] = toImage(matrix(image, view), point).map(Math.floor);
  if (column < 0 || row < 0 || column >= image.width || row >= image.height) return "";
  return `(${column}, ${row}): ${levels[0].values[row * image.width + column]}`;
}
