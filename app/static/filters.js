// Filters and order of the worklist; named ones are kept in the user's settings.
import { h, session } from "./session.js";

const STATUSES = ["pending", "draft", "signed", "discarded"];
const PAUSE_MS = 200;
const DEFAULT = { status: "", search: "", sort: "changed", descending: "1", mine: "", finding: "" };
const FIRST_DESCENDING = new Set(["changed", "created", "undecided", "notices"]);

/** Return the columns of the worklist. */
export function columnsOf(named) {
  return [
    { name: "thumbnail", title: "Image" }, { name: "name", title: "Study", sort: "name" }, { name: "status", title: "Status", sort: "status" },
    { name: "findings", title: "Findings" }, { name: "notices", title: "Warnings", sort: "notices" }, { name: "undecided", title: "To decide", sort: "undecided" },
    ...(named ? [{ name: "assigned", title: "Assigned to", sort: "assigned" }] : []),
    { name: "created", title: "Age", sort: "created" }, { name: "changed", title: "Changed", sort: "changed" },
  ];
}

export class Filters {
  query = { ...DEFAULT };

  /**
   * @param changed called when the reader has changed what is asked for; its promise ends when the list shows it
   * @param first moves the focus to the first study of the list
   */
  constructor(changed, first) {
    this.changed = changed;
    this.statuses = h("div", { role: "group", "aria-label": "Status", class: "lr-line" });
    this.search = h("input", { type: "search", id: "search", placeholder: "Name, text, indication, SHA-256", "aria-label": "Search", oninput: () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.#typed(), PAUSE_MS);
    }, onkeydown: async (event) => {
      if (!["ArrowDown", "Enter"].includes(event.key)) return;
      event.preventDefault();
      await this.#typed();
      first();
    } });
    this.mine = h("button", { id: "mine", class: "lr-button lr-small", title: "Assigned to me, or unassigned and my own", onclick: () => this.set({ mine: this.query.mine ? "" : "1" }) }, "mine");
    this.finding = h("button", { id: "finding-filter", class: "lr-button lr-small", title: "Show all findings again", onclick: () => this.set({ finding: "" }) });
    this.element = h("div", { class: "lr-line" }, this.statuses, this.mine, this.finding, this.search);
    this.name = h("input", { type: "text", id: "filter-name", maxLength: 60, placeholder: "Name of this filter", "aria-label": "Name of this filter", onkeydown: (event) => {
      if (!["Enter", "Escape"].includes(event.key)) return;
      event.preventDefault(); // Enter would also press the button that gets the focus
      if (event.key === "Enter") this.#keep();
      else this.#name(false);
    } });
    this.save = h("button", { id: "save-filter", class: "lr-button lr-small", onclick: () => (this.name.hidden ? this.#name(true) : this.#keep()) }, "Save filter");
    this.chips = h("span", { class: "lr-line" });
    this.saved = h("div", { class: "lr-line", id: "saved-filters", role: "group", "aria-label": "Saved filters" }, this.chips, this.name, this.save);
    this.name.hidden = true;
    this.count({});
  }

  /** True if the filters leave studies out. */
  get narrowed() {
    return ["status", "search", "mine", "finding"].some((name) => this.query[name]);
  }

  /** Return the query for the server, without what is not asked for. */
  get asked() {
    return Object.fromEntries(Object.entries(this.query).filter(([, value]) => value !== ""));
  }

  set(part) {
    clearTimeout(this.timer);
    this.query = { ...this.query, search: this.search.value, ...part };
    if (this.search.value !== this.query.search) this.search.value = this.query.search;
    this.draw();
    return this.changed();
  }

  /** Order by a column; the column that is in order already is reversed. */
  sortBy(sort) {
    const again = this.query.sort === sort;
    const descending = again ? this.query.descending !== "1" : FIRST_DESCENDING.has(sort);
    this.set({ sort, descending: descending ? "1" : "0" });
  }

  count(counts) {
    this.counts = counts;
    this.draw();
  }

  draw() {
    const total = STATUSES.reduce((sum, one) => sum + (this.counts[one] ?? 0), 0);
    if (!this.statuses.children.length) {
      this.statuses.append(...["", ...STATUSES].map((one) => h("button", { class: "lr-button lr-small", dataset: { status: one || "all" }, onclick: () => this.set({ status: one }) })));
    }
    for (const button of this.statuses.children) {
      const one = button.dataset.status === "all" ? "" : button.dataset.status;
      button.textContent = `${one || "all"} ${one ? (this.counts[one] ?? 0) : total}`;
      button.setAttribute("aria-pressed", String(one === this.query.status));
    }
    this.mine.hidden = !session.me?.named_users;
    this.mine.setAttribute("aria-pressed", String(Boolean(this.query.mine)));
    this.finding.hidden = !this.query.finding;
    this.finding.textContent = `finding: ${this.query.finding} ×`;
    this.drawSaved();
  }

  drawSaved() {
    const known = session.settings?.filters ?? [];
    const same = (query) => Object.keys(DEFAULT).every((name) => (query?.[name] ?? DEFAULT[name]) === this.query[name]);
    this.save.hidden = known.some((one) => same(one.query)) || same({});
    const key = JSON.stringify([known, this.query]);
    if (this.chips.dataset.key === key) return;
    this.chips.dataset.key = key;
    this.chips.replaceChildren(...known.map((one) => h("span", { class: "lr-saved" },
      h("button", { class: "lr-button lr-small", "aria-pressed": String(same(one.query)), onclick: () => this.set({ ...DEFAULT, ...(same(one.query) ? {} : one.query) }) }, one.name),
      h("button", { class: "lr-button lr-small", "aria-label": `Delete the filter ${one.name}`, title: "Delete", onclick: () => this.#forget(one.name) }, "×"))));
  }

  /** Take over what has been typed into the search. */
  #typed() {
    return this.search.value !== this.query.search ? this.set({ search: this.search.value }) : null;
  }

  #name(on) {
    this.#typed();
    this.name.hidden = !on;
    (on ? this.name : this.save).focus();
  }

  async #keep() {
    const [name, { query }] = [this.name.value.trim(), this];
    if (!name || !(await this.#save((others) => [...others, { name, query }], name))) return;
    this.name.value = "";
    this.name.hidden = true;
    this.drawSaved();
    this.chips.lastElementChild?.firstElementChild.focus();
  }

  /** Change the list of saved filters, without the one of a name; returns false if it cannot be loaded. */
  async #save(change, name) {
    try {
      await session.loadSettings();
    } catch (error) {
      session.fail(error);
      return false;
    }
    session.set({ filters: change((session.settings.filters ?? []).filter((one) => one.name !== name)) });
    return true;
  }

  async #forget(name) {
    if (!(await this.#save((others) => others, name))) return;
    this.drawSaved();
    this.save.focus();
  }
}
