// Texts that the server does not have yet, kept in the browser for each user: after a reload, a conflict, a lost
// connection or the end of a session they are offered back. They are removed when the server has them, and at logout.
const PREFIX = "llava-rad.unsent.";
const MAX_AGE_MS = 30 * 24 * 3600 * 1000;
const TYPING_MS = 60_000; // so long after the last key, a text is being typed in its tab
const TAB = "llava-rad.tab";

class Unsent extends EventTarget {
  #prefix = null;
  #live = new Set(); // texts in an open editor of this page
  #tab = sessionStorage.getItem(TAB) ?? String(Math.random()); // the same after a reload

  /** Take the texts of a user. */
  use(user) {
    this.#prefix = `${PREFIX}${encodeURIComponent(user)}.`;
    for (const { id, at } of this.all()) if (!(Date.now() - at < MAX_AGE_MS)) this.drop(id);
  }

  constructor() {
    super();
    sessionStorage.setItem(TAB, this.#tab);
  }

  /** Return all texts of the user, oldest first: {id, study, kind, text, at, tab, sentence, field, section, after}. */
  all() {
    const found = [];
    for (let at = 0; this.#prefix && at < localStorage.length; at += 1) {
      const key = localStorage.key(at);
      if (!key.startsWith(this.#prefix)) continue;
      try {
        found.push({ ...JSON.parse(localStorage.getItem(key)), id: key.slice(this.#prefix.length) });
      } catch {
        localStorage.removeItem(key); // not JSON: nothing of ours
      }
    }
    return found.toSorted((one, other) => one.at - other.at);
  }

  /** Return the texts of a study that no open editor shows, in this tab or, as far as it can know, in another one. */
  waiting(study) {
    const elsewhere = ({ at, tab }) => tab && tab !== this.#tab && Date.now() - at < TYPING_MS;
    return this.all().filter((one) => one.study === study && !this.#live.has(one.id) && !elsewhere(one));
  }

  /** Keep a text; the editor that shows it calls this for every keystroke. */
  keep(id, entry) {
    this.#live.add(id);
    this.#write(id, { ...entry, at: Date.now(), tab: this.#tab });
  }

  #write(id, entry) {
    try {
      if (this.#prefix) localStorage.setItem(this.#prefix + id, JSON.stringify(entry));
    } catch {
      // the browser's storage is full or switched off: the text is still in the editor
    }
  }

  /** Remove a text: the server has it, or its author has given it up. */
  drop(id) {
    this.#live.delete(id);
    if (this.#prefix) localStorage.removeItem(this.#prefix + id);
    this.dispatchEvent(new Event("change"));
  }

  /** Offer a text back: it could not be saved, and no editor shows it any more. */
  release(id) {
    this.#live.delete(id);
    const entry = this.all().find((one) => one.id === id);
    if (entry) this.#write(id, { ...entry, tab: null });
    this.dispatchEvent(new Event("change"));
  }

  /** Remove all texts, and keep none any more. */
  close() {
    for (const { id } of this.all()) this.drop(id);
    this.#prefix = null;
  }
}

export const unsent = new Unsent();
