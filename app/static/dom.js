// Elements of the page: text never becomes HTML.

/** Create an element with properties, listeners (on…) and children; strings become text, never HTML. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name in element && name !== "list") element[name] = value;
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function sentence(text) {
  return text ? text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".") : "";
}

/** Return true if keys pressed on an element are text. */
export function isTyping(element) {
  return Boolean(element?.closest?.("textarea, select, [contenteditable], input:not([type=checkbox], [type=radio], [type=range], [type=file])"));
}

const ICONS = {
  accept: "M3 8.5l3.2 3.2L13 4.6",
  edit: "M3 13l.7-3L10.6 3.2l2.2 2.2L5.9 12.3z",
  reject: "M4 4l8 8M12 4l-8 8",
  undecide: "M8 3.2a4.8 4.8 0 1 0 .01 0z",
  added: "M8 3.2v9.6M3.2 8h9.6",
  revert: "M3.4 3.6v3.6H7M3.7 7A5 5 0 1 1 3.6 10.2",
  show: "M1.6 8S4 3.8 8 3.8 14.4 8 14.4 8 12 12.2 8 12.2 1.6 8 1.6 8zM8 6.3a1.7 1.7 0 1 0 .01 0z",
  undo: "M5.5 3L2.5 6l3 3M2.8 6H9.6a3.6 3.6 0 0 1 0 7.2H6",
  redo: "M10.5 3l3 3-3 3M13.2 6H6.4a3.6 3.6 0 0 0 0 7.2H10",
  previous: "M10 3L5 8l5 5",
  next: "M6 3l5 5-5 5",
};
const SVG = "http://www.w3.org/2000/svg";

/** Create a drawing of 16 by 16 units; screen readers skip it. `drawings`: paths by name. */
export function icon(name, drawings = ICONS) {
  const drawing = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  for (const [key, value] of Object.entries({ viewBox: "0 0 16 16", class: "lr-icon", "aria-hidden": "true" })) drawing.setAttribute(key, value);
  path.setAttribute("d", drawings[name]);
  drawing.append(path);
  return drawing;
}
