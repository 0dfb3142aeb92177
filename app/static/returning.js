// What a tab opens after the login: the study that was open when the session ended, or that a link names.
const RETURN = "llava-rad.return";

export function comeBack(hash) {
  sessionStorage.setItem(RETURN, hash);
}

/** Return what the tab is to open, once; an empty text if there is nothing. */
export function returning() {
  const hash = sessionStorage.getItem(RETURN) ?? "";
  sessionStorage.removeItem(RETURN);
  return hash;
}
