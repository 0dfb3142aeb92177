// Position of image pixels on the canvas: mirrored, turned by quarters, scaled and moved.
// A view is {scale, x, y, turns, flipped}: device pixels per image pixel, top left corner of the image on the canvas,
// clockwise quarter turns after mirroring left and right. Image points have the corner of the first pixel at (0, 0).

const QUARTERS = [[1, 0], [0, 1], [-1, 0], [0, -1]]; // cosine and sine

/** Return the width and height of an image after its turns. */
export function turned({ width, height }, { turns = 0 } = {}) {
  return turns % 2 ? { width: height, height: width } : { width, height };
}

/** Return the canvas transform [a, b, c, d, e, f] from image to canvas. */
export function matrix({ width, height }, { scale, x, y, turns = 0, flipped = false }) {
  const [cosine, sine] = QUARTERS[turns];
  const [a, b, c, d] = [flipped ? -cosine : cosine, flipped ? -sine : sine, -sine, cosine];
  const left = Math.min(0, a * width) + Math.min(0, c * height);
  const top = Math.min(0, b * width) + Math.min(0, d * height);
  return [a, b, c, d].map((one) => one * scale).concat(x - left * scale, y - top * scale);
}

/** Convert an image point to the canvas. */
export function toCanvas([a, b, c, d, e, f], [u, v]) {
  return [a * u + c * v + e, b * u + d * v + f];
}

/** Convert a point of the canvas to the image. */
export function toImage([a, b, c, d, e, f], [x, y]) {
  const area = a * d - b * c;
  return [(d * (x - e) - c * (y - f)) / area, (a * (y - f) - b * (x - e)) / area];
}

/** Return the edge of the canvas at which the image's right side lies: right, bottom, left or top. */
export function rightEdge({ turns = 0, flipped = false }) {
  return ["right", "bottom", "left", "top"][(turns + (flipped ? 2 : 0)) % 4];
}

/** Return the view with left and right of the screen exchanged, or turned clockwise by a quarter. */
export function mirrored({ turns, flipped }) {
  return { turns: (4 - turns) % 4, flipped: !flipped };
}

export function quarter({ turns, flipped }) {
  return { turns: (turns + 1) % 4, flipped };
}

/** Return the view after a change of its turns, with the same image point at a point of the canvas. */
export function changedAround(image, before, change, [x, y]) {
  const point = toImage(matrix(image, before), [x, y]);
  const view = { ...before, ...change(before), x: 0, y: 0 };
  const [left, top] = toCanvas(matrix(image, view), point);
  return { ...view, x: x - left, y: y - top };
}

/** Return the image point in the middle of the canvas, in shares of the turned image's sides. */
export function centreOf(image, view, canvas) {
  const { width, height } = turned(image, view);
  return [(canvas.width / 2 - view.x) / view.scale / width, (canvas.height / 2 - view.y) / view.scale / height];
}

/** Return the view with a point in the middle of the canvas, the inverse of `centreOf`. */
export function centred(image, view, canvas, [across, down]) {
  const { width, height } = turned(image, view);
  return { ...view, x: canvas.width / 2 - across * width * view.scale, y: canvas.height / 2 - down * height * view.scale };
}
