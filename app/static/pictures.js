// Images of a study as the viewer takes them, and their thumbnails.
import { h } from "./session.js";

const PREVIEW = 1024; // longest side in pixels

const TITLES = { prior: "Prior of ", lateral: "Lateral of ", further: "Further image of " };

function addressOf(study, part) {
  return `/api/studies/${study.id}/image/${part.image.id}`;
}

/** Describe an image of a study for the viewer; `part` is the study, its prior, its lateral or a further image. */
export function pictureOf(study, part, which = "current") {
  const { id, width, height, presets } = part.image;
  const { view, modality, orientation } = part.facts;
  const address = addressOf(study, part);
  const frontal = which !== "lateral" && ["PA", "AP", "frontal", "unknown"].includes(view);
  return {
    id, width, height, presets, url: `${address}?planes=1`, planes: true, preview: `${address}?preview=${PREVIEW}`,
    // the reader turns and mirrors frontal images so that the patient's right is at the left
    sides: frontal ? (orientation ? "stated" : "assumed") : null,
    description: `${TITLES[which] ?? ""}${study.name}, ${view} view${modality ? `, ${modality}` : ""}`,
  };
}

/** Create a small image; what it shows is in the text next to it. */
export function thumbnail(study, part) {
  return h("img", { class: "lr-small-image", alt: "", loading: "lazy", decoding: "async", src: `${addressOf(study, part)}?preview=96` });
}
