// Display of 16-bit pixels, independent of the page: levels of detail, and the mapping from values to brightness.

/** Return an image and its repeatedly halved copies (means of 2 x 2 pixels), until both sides are at most 512. */
export function pyramid(values, width, height) {
  const levels = [{ values, width, height }];
  while (Math.max(width, height) > 512) {
    const w = width >> 1;
    const h = height >> 1;
    const last = levels[levels.length - 1].values;
    const next = new Uint16Array(w * h);
    for (let y = 0, to = 0; y < h; y += 1) {
      let from = 2 * y * width;
      for (let x = 0; x < w; x += 1, to += 1, from += 2) {
        next[to] = (last[from] + last[from + 1] + last[from + width] + last[from + width + 1] + 2) >> 2;
      }
    }
    levels.push({ values: next, width: w, height: h });
    width = w;
    height = h;
  }
  return levels;
}

/**
 * Return the brightness of all 65,536 values under a window, as RGBA words (little-endian).
 * linear: a ramp of `width` values around `center`; sigmoid: DICOM PS3.3 C.11.2.1.3.1; table: the file's own curve,
 * shifted and stretched by the difference between center and width and those of the preset.
 */
export function brightness({ kind, center, width, table, own }, inverted) {
  const words = new Uint32Array(65536);
  const put = (value, shown) => {
    const grey = inverted ? 255 - shown : shown;
    words[value] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
  };
  for (let value = 0; value < 65536; value += 1) {
    const place = (value - center) / width;
    if (kind === "sigmoid") put(value, Math.floor(255 / (1 + Math.exp(-4 * place)) + 0.5));
    else if (kind === "table") put(value, table[Math.min(Math.max(Math.round(own.center + place * own.width), 0), 65535)]);
    else put(value, Math.floor(255 * Math.min(Math.max(place + 0.5, 0), 1) + 0.5));
  }
  return words;
}

/**
 * Return the coarsest level with at least one pixel per screen pixel. `scale`: screen pixels per full-size pixel;
 * `width`: of the full-size image, of which the first level may be a reduced copy.
 */
export function levelFor(levels, scale, width = levels[0].width) {
  let chosen = 0;
  while (chosen + 1 < levels.length && (width / levels[chosen + 1].width) * scale <= 1) chosen += 1;
  return chosen;
}

/** Fit an image of width x height into a box; returns scale and top left corner. */
export function fit(width, height, boxWidth, boxHeight) {
  const scale = Math.min(boxWidth / width, boxHeight / height);
  return { scale, x: (boxWidth - width * scale) / 2, y: (boxHeight - height * scale) / 2 };
}
