// Attention maps: values from 0 to 1 as colours over an image.
const HEAT = [[58, 12, 92], [140, 30, 112], [205, 65, 72], [245, 130, 32], [250, 200, 70], [255, 255, 205]];

/** Draw a map {side, values} on a canvas, one pixel per value; low values are transparent. */
export function drawHeat(canvas, { side, values }) {
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
export function paintHeat(context, heat, [left, top, width, height], image, { scale, x, y }, alpha) {
  context.save();
  // clip the padding that the model's preprocessing adds to make the image square
  context.beginPath();
  context.rect(x, y, image.width * scale, image.height * scale);
  context.clip();
  context.globalAlpha = alpha;
  context.imageSmoothingEnabled = true;
  context.drawImage(heat, x + left * image.width * scale, y + top * image.height * scale, width * image.width * scale, height * image.height * scale);
  context.restore();
}
