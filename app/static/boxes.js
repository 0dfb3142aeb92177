// Boxes over an image in which the model located the sentences of its draft.

/** Return the boxes of all sentences that are not rejected, as shares of the image's sides. */
export function boxesOf(study, selected) {
  return (study?.sentences ?? []).filter((one) => one.state !== "rejected")
    .flatMap((one) => (one.boxes ?? []).map((box) => ({ ...box, selected: one.id === selected })));
}

/** Describe a sentence's boxes in words. */
export function words({ boxes = [], state }) {
  if (!boxes.length || state === "rejected") return "";
  return `${boxes.length} ${boxes.length === 1 ? "box" : "boxes"}${state === "edited" ? " of the draft" : ""}`;
}

/** Paint boxes: thin, the selected sentence's thick and on top. Dark edges keep them visible on bright pixels. */
export function paintBoxes(context, boxes, image, { scale, x, y }) {
  const ratio = devicePixelRatio || 1;
  for (const box of boxes.toSorted((one, other) => one.selected - other.selected)) {
    const left = x + box.x_min * image.width * scale;
    const top = y + box.y_min * image.height * scale;
    const rectangle = [left, top, (box.x_max - box.x_min) * image.width * scale, (box.y_max - box.y_min) * image.height * scale];
    const lines = box.selected ? [["rgb(0 0 0 / 75%)", 5], ["#f59e0b", 2.5]] : [["rgb(0 0 0 / 40%)", 3], ["rgb(229 231 235 / 55%)", 1]];
    for (const [colour, width] of lines) {
      context.strokeStyle = colour;
      context.lineWidth = width * ratio;
      context.strokeRect(...rectangle);
    }
  }
}
