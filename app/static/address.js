// The open study or tab in the page's address, so that the browser's Back returns to the one before.
let placed = null; // address that is about to be written

/** Write a study or tab into the address; once for all changes of a click. */
export function place(hash, replace = false) {
  if (!placed) queueMicrotask(write);
  placed = { hash, replace: replace || Boolean(placed?.replace) };
}

function write() {
  const { hash, replace } = placed;
  placed = null;
  if (location.hash.slice(1) === hash) return;
  const url = hash ? `#${hash}` : location.pathname + location.search;
  if (replace || !location.hash) history.replaceState(null, "", url);
  else history.pushState(null, "", url);
}
