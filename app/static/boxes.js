// Rectangles over an image: where the model says that the sentences of its draft are seen.

/** The boxes of a study's sentences, shares of the upright image; a rejected sentence's are no longer shown. */
export function boxesOf(study, selected) {
  return (study?.sentences ?? []).filter((one) => one.state !== "rejected")
    .flatMap((one) => (one.boxes ?? []).map((box) => ({ ...box, selected: one.id === selected })));
}

/** What a sentence's row says of its boxes. */
export function words({ boxes = [], state }) {
  if (!boxes.length || state === "rejected") return "";
  return `${boxes.length} ${boxes.length === 1 ? "box" : "boxes"}${state === "edited" ? " of the draft" : ""}`;
}

/** Paint boxes: faintly, the selected sentence's strongly and last. Dark edges keep them visible on bright places. */
export function paintBoxes(context, boxes, image, { scale, x, y }) {
  const ratio = devicePixelRatio || 1;
  for (const box of boxes.toSorted((one, other) => one.selected - other.selected)) {
    const left = x + box.x_min * image.width * scale;
    const top = y + box.y_min * image.height * scale;
    const place = [left, top, (box.x_max - box.x_min) * image.width * scale, (box.y_max - box.y_min) * image.height * scale];
    const lines = box.selected ? [["rgb(0 0 0 / 75%)", 5], ["#f59e0b", 2.5]] : [["rgb(0 0 0 / 40%)", 3], ["rgb(229 231 235 / 55%)", 1]];
    for (const [colour, width] of lines) {
      context.strokeStyle = colour;
      context.lineWidth = width * ratio;
      context.strokeRect(...place);
    }
  }
}
