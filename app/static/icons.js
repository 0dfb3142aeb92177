// Icons of the viewer's tools: paths on a grid of 16, drawn as lines.
const PATHS = {
  "zoom-out": "M7 2.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9M10.3 10.3 14 14M5 7h4",
  "zoom-in": "M7 2.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9M10.3 10.3 14 14M5 7h4M7 5v4",
  fit: "M2 6V2h4M10 2h4v4M14 10v4h-4M6 14H2v-4",
  invert: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2M8 2v12M8 5h2.8M8 8h6M8 11h4.8",
  reset: "M3 8a5 5 0 1 0 1.6-3.7M5 1.5v3h3",
  rotate: "M13 8a5 5 0 1 1-1.6-3.7M11 1.5v3H8M6.5 8h3",
  flip: "M8 1.5v13M6 4 1.5 12H6zM10 4l4.5 8H10z",
  length: "M1.5 11.5 11.5 1.5l3 3-10 10zM4 9l1.5 1.5M6.5 6.5 8 8M9 4l1.5 1.5",
  cardiothoracic: "M2 3v10M14 3v10M2 13h12M5 6c0 3.5 1.5 4.5 3 4.5S11 9 11 6.500C10.5 4.5 8.5 5 8 6 7.5 5 5.5 4.5 5 6",
  magnifier: "M6.5 2a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9M9.8 9.800l4.2 4.2",
  map: "M8 2.500c3 0 5.5 2.5 5.5 5.500S11 13.5 8 13.5 2.5 11 2.5 8 5 2.5 8 2.500M8 5.500a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5",
  boxes: "M2 3h7v6H2zM7 7h7v6H7z",
};

/** Create an icon; it is hidden from screen readers, its button has a name. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}
