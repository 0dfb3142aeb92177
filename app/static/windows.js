// Windows of a viewer: {kind, center, width, table, own}; `own` has center and width of the preset that it comes from.

/** Return the window of a preset. */
export function windowOf(preset) {
  const table = preset.table && Uint8Array.from(atob(preset.table), (one) => one.charCodeAt(0));
  return { ...preset, table, own: { center: preset.center, width: preset.width } };
}

export function limited(window) {
  return { ...window, width: Math.min(Math.max(window.width, 1), 1e6), center: Math.min(Math.max(window.center, -1e6), 1e6) };
}

/** Return a window that is changed by shares of its preset's width. */
export function shifted(window, width, center) {
  return { ...window, width: window.width + width * window.own.width, center: window.center + center * window.own.width };
}

/** Return another viewer's window with the same differences to its preset, as shares of the preset's width. */
export function alike({ center, width, own }, other) {
  const its = other.own;
  return { ...other, width: (width / own.width) * its.width, center: its.center + ((center - own.center) / own.width) * its.width };
}
