// Rows of the worklist: changed where they stand, so that focus and scroll position stay.
import { h } from "./session.js";

const UNITS = [[60, "min"], [60, "h"], [24, "d"]];

/** Describe how long ago a time was: 5 min, 3 h, 2 d. */
export function age(since, now = Date.now()) {
  let value = Math.max(0, (now - new Date(since).getTime()) / 1000);
  let shown = "now";
  for (const [size, unit] of UNITS) {
    value /= size;
    if (value < 1) return shown;
    shown = `${Math.floor(value)} ${unit}`;
  }
  return shown;
}

export class Rows {
  #rows = new Map(); // study id -> row

  /** @param acts {open(id), assign(id, user), finding(name)} */
  constructor(body, acts) {
    this.body = body;
    this.acts = acts;
    body.addEventListener("keydown", (event) => this.#move(event));
  }

  get size() {
    return this.#rows.size;
  }

  /**
   * Show studies. With `keep`, known rows stay where they are and new ones come last.
   * Returns the number of rows that were added, and whether the rows that stayed would stand in another order.
   */
  show(studies, { keep, ...more }) {
    const there = new Set(studies.map((one) => one.id));
    let added = 0;
    if (!keep) {
      for (const [id, row] of this.#rows) if (!there.has(id)) this.#remove(id, row);
    }
    for (const study of studies) {
      let row = this.#rows.get(study.id);
      if (!row) {
        row = this.#create(study.id);
        added += 1;
        if (keep) this.body.append(row.element);
      }
      row.update(study, more);
    }
    for (const [id, row] of this.#rows) row.element.classList.toggle("lr-left", !there.has(id));
    const wanted = studies.map((one) => this.#rows.get(one.id).element);
    const present = [...this.body.children].filter((one) => there.has(one.dataset.study));
    const moved = keep && wanted.some((one, at) => one !== present[at]);
    if (!keep) this.#order(wanted);
    this.#reachable();
    return { added: keep ? added : 0, moved };
  }

  /** Put rows into an order; the focused row is not taken out of the page, which would lose its focus. */
  #order(wanted) {
    const focused = document.activeElement?.closest("tr");
    const at = wanted.indexOf(focused);
    if (at < 0) {
      this.body.replaceChildren(...wanted);
      return;
    }
    for (const one of wanted.slice(0, at)) focused.before(one);
    for (const one of wanted.slice(at + 1).toReversed()) focused.after(one);
  }

  #remove(id, row) {
    const focused = row.element.contains(document.activeElement);
    const next = row.element.nextElementSibling ?? row.element.previousElementSibling;
    row.element.remove();
    this.#rows.delete(id);
    if (focused) next?.querySelector("th button")?.focus();
  }

  /** Update the ages. */
  tick() {
    for (const row of this.#rows.values()) row.tick();
  }

  #create(id) {
    const row = new Row(id, this.acts);
    this.#rows.set(id, row);
    return row;
  }

  /** Let the parts of one row be reached with Tab; the arrow keys go to the other rows. */
  #reachable(chosen = this.body.querySelector("th button[tabindex='0']")) {
    const row = chosen?.closest("tr") ?? this.body.querySelector(".lr-current") ?? this.body.firstElementChild;
    for (const one of this.body.querySelectorAll("button, select")) one.tabIndex = row.contains(one) ? 0 : -1;
  }

  #move(event) {
    const row = event.target.closest("tr");
    const all = [...this.body.children];
    const at = all.indexOf(row);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1, PageDown: at + 10, PageUp: at - 10 }[event.key];
    if (to === undefined || event.target.matches("select") || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const button = all[Math.min(Math.max(to, 0), all.length - 1)].querySelector("th button");
    this.#reachable(button);
    button.focus();
    button.closest("tr").scrollIntoView({ block: "nearest" });
  }
}

class Row {
  constructor(id, acts) {
    this.id = id;
    this.acts = acts;
    const open = () => acts.open(id);
    this.picture = h("img", { class: "lr-small-image", alt: "", loading: "lazy", decoding: "async", onclick: open });
    this.open = h("button", { class: "lr-link", tabIndex: -1, onclick: open });
    this.parts = h("span", { class: "lr-quiet" });
    this.status = h("span");
    this.drafting = h("span", { class: "lr-quiet" });
    this.findings = h("td", { class: "lr-col-findings" });
    this.warning = h("span", {});
    this.undecided = h("td", { class: "lr-col-undecided" });
    this.assigned = h("select", { tabIndex: -1, onchange: () => acts.assign(id, this.assigned.value || null) });
    this.assignment = h("td", { class: "lr-col-assigned" }, this.assigned);
    this.age = h("td", { class: "lr-col-created" });
    this.changed = h("td", { class: "lr-col-changed" });
    this.element = h("tr", { dataset: { study: id }, ondblclick: open },
      h("td", { class: "lr-col-thumbnail" }, this.picture), h("th", { scope: "row", class: "lr-col-name" }, this.open, " ", this.parts),
      h("td", { class: "lr-col-status" }, this.status, " ", this.drafting), this.findings, h("td", { class: "lr-col-notices" }, this.warning), this.undecided, this.assignment, this.age, this.changed);
  }

  update(one, { current, named, user, users = [] }) {
    this.one = one;
    this.element.classList.toggle("lr-current", one.id === current);
    set(this.open, one.name);
    const views = [one.view === "unknown" ? "" : one.view, one.images > 1 ? `${one.images} images` : ""].filter(Boolean);
    set(this.parts, views.join(", "));
    set(this.status, one.status);
    this.status.className = `lr-status lr-${one.status}`;
    const draft = { queued: "waiting for the model", running: "being drafted", failed: "no draft: failed" }[one.draft] ?? "";
    set(this.drafting, [draft, one.version > 1 ? `version ${one.version}` : ""].filter(Boolean).join(", "));
    if (one.thumbnail && this.picture.getAttribute("src") !== one.thumbnail) this.picture.src = one.thumbnail;
    this.picture.hidden = !one.thumbnail;
    const names = one.findings ?? [];
    if (this.findings.dataset.names !== names.join()) {
      this.findings.dataset.names = names.join();
      this.findings.replaceChildren(...names.map((name) => h("button", { class: "lr-finding", tabIndex: -1, title: `Show studies with ${name}`, onclick: () => this.acts.finding(name) }, name)));
    }
    set(this.warning, one.notices ? `⚠ ${one.notices}` : "");
    this.warning.className = one.notices ? "lr-chip lr-attention" : "";
    this.warning.title = one.notices ? "Warnings that matter: open the study to read them" : "";
    set(this.undecided, one.sentences && !["signed", "discarded"].includes(one.status) ? `${one.undecided} of ${one.sentences}` : "");
    this.assignment.hidden = !named;
    if (named) this.#offer(users, user);
    this.tick();
  }

  /** Offer the users for the assignment, the present one first. */
  #offer(users, user) {
    const names = ["", user, ...users.filter((one) => one !== user)];
    if (this.one.assigned && !names.includes(this.one.assigned)) names.push(this.one.assigned);
    const key = names.join("\n");
    if (this.assigned.dataset.key !== key) {
      this.assigned.dataset.key = key;
      this.assigned.replaceChildren(...names.map((name) => new Option(name || "nobody", name)));
    }
    if (document.activeElement !== this.assigned) this.assigned.value = this.one.assigned ?? "";
    this.assigned.setAttribute("aria-label", `Assigned to: ${this.one.name}`);
  }

  tick() {
    const { created, changed } = this.one;
    set(this.age, created ? age(created) : "");
    this.age.title = created ? new Date(created).toLocaleString() : "";
    set(this.changed, new Date(changed).toLocaleString([], { dateStyle: "short", timeStyle: "short" }));
  }
}

/** Set a text only if it differs, so that nothing is selected, announced or laid out anew without need. */
function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
