// Worklist: find, open, assign and export studies, send images, folders and zip files.
import { sendFiles, sendZip } from "./batch.js";
import { Filters, columnsOf } from "./filters.js";
import { Rows } from "./rows.js";
import { call, h, selectTab, session } from "./session.js";

export { sendFiles, sendZip };
const PAGE = 100;

export function mount(root) {
  let limit = PAGE;
  let asked = 0;
  let timer = null;
  const heads = h("tr");
  const body = h("tbody");
  const table = h("table", { id: "studies" }, h("caption", { class: "lr-for-readers" }, "Studies; arrow keys move, Enter opens"), h("thead", {}, heads), body);
  const empty = h("p", { class: "lr-quiet" });
  const news = h("button", { id: "worklist-news", class: "lr-button", hidden: true, onclick: () => refresh() });
  const more = h("button", { class: "lr-button", hidden: true, onclick: () => { limit += PAGE; refresh(); } }, "More");
  const batches = h("ul", { id: "batches", "aria-label": "Batches", role: "list" });
  const imported = h("div", { id: "imported", class: "lr-quiet", hidden: true }, h("span"), h("details", {}, h("summary", {}, "Not used"), h("ul")));
  const filters = new Filters(() => { limit = PAGE; return refresh(); }, () => body.querySelector("th button")?.focus());
  const rows = new Rows(body, {
    open: (id) => {
      selectTab("Review");
      session.open(id);
    },
    assign: (id, user) => call("POST", `/api/studies/${id}/assign`, { json: { user } }).catch((error) => session.fail(error)).finally(() => refresh(true)),
    finding: (name) => filters.set({ finding: filters.query.finding === name ? "" : name }),
  });
  const zip = picker("zip", "Zip file", (files) => sendZip(files[0]), { accept: ".zip" });
  const folder = picker("folder", "Folder", sendFiles);
  folder.webkitdirectory = true;
  const files = picker("files", "Image files", sendFiles, { multiple: true });
  root.append(
    h("div", { class: "lr-line" }, filters.element, h("span", { class: "lr-space" }),
      h("button", { class: "lr-button", onclick: () => files.click() }, "Add images …"), files,
      h("button", { class: "lr-button", onclick: () => folder.click() }, "Add folder …"), folder,
      h("button", { class: "lr-button", onclick: () => zip.click() }, "Add zip …"), zip,
      menu(h("summary", { class: "lr-button" }, "Export"), h("div", {},
        h("a", { class: "lr-button", id: "export-jsonl", href: "/api/export.jsonl", download: "", title: "All studies with all events, a line each" }, "JSONL of all"),
        h("a", { class: "lr-button", id: "export-zip", href: "/api/export.zip", download: "", title: "Signed studies for research: 16-bit PNG images without headers, reports, labels" }, "Set of all signed"),
        h("a", { class: "lr-button", id: "export-csv", href: "/api/export.csv", download: "", title: "A row for each sentence" }, "CSV of all")))),
    filters.saved, imported, batches, h("div", { class: "lr-news" }, news), table, empty, more);

  /** Create a menu that closes when the focus leaves it or on Escape. */
  function menu(...children) {
    return h("details", {
      class: "lr-menu",
      onfocusout: ({ currentTarget, relatedTarget }) => { if (!currentTarget.contains(relatedTarget)) currentTarget.open = false; },
      onkeydown: ({ currentTarget, key }) => {
        if (key !== "Escape") return;
        currentTarget.open = false;
        currentTarget.firstElementChild.focus();
      },
    }, ...children);
  }

  function picker(id, label, then, more = {}) {
    const input = h("input", { type: "file", id, class: "lr-hidden-input", tabIndex: -1, "aria-label": label, ...more, onchange: () => {
      const taken = [...input.files];
      input.value = "";
      if (taken.length) then(taken).catch((error) => session.fail(error)).finally(() => refresh(true));
    } });
    return input;
  }

  /**
   * Ask for the studies and show them. In the background, rows keep their places: known ones are changed where they
   * stand, new ones come last, and a button offers the new order.
   */
  async function refresh(background = false) {
    clearTimeout(timer);
    const mine = (asked += 1);
    session.list = filters.asked;
    const shown = background === true ? Math.min(Math.max(limit, rows.size) + PAGE, 500) : limit;
    const found = await call("GET", `/api/studies?${new URLSearchParams({ ...filters.asked, limit: shown, offset: 0 })}`).catch((error) => session.fail(error));
    if (!found || mine !== asked) return;
    filters.count(found.counts);
    drawHeads();
    if (background !== true) dropEnded();
    const { added, moved } = rows.show(found.studies, { keep: background === true, current: session.study?.id, named: session.me?.named_users, user: session.me?.user, users: session.me?.users });
    news.hidden = !(background === true && (moved || added));
    news.textContent = added ? `${added} new: show in order` : "The order has changed: show it";
    table.hidden = !rows.size;
    empty.textContent = rows.size ? "" : filters.narrowed ? "No study matches." : "No studies yet: open an image, or add images, a folder or a zip file, or drop them here.";
    more.hidden = found.studies.length < shown || shown >= 500;
  }

  function drawHeads() {
    const columns = columnsOf(session.me?.named_users);
    const key = columns.map((one) => one.title).join();
    if (heads.dataset.key !== key) {
      heads.dataset.key = key;
      heads.replaceChildren(...columns.map(({ title, sort, name }) => h("th", { scope: "col", class: `lr-col-${name}`, dataset: { sort: sort ?? "" } },
        sort ? h("button", { class: "lr-sort", onclick: () => filters.sortBy(sort) }, title, h("span", { "aria-hidden": "true" })) : title)));
    }
    for (const head of heads.children) {
      const on = head.dataset.sort && head.dataset.sort === filters.query.sort;
      if (on) head.setAttribute("aria-sort", filters.query.descending === "1" ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
  }

  function later() {
    clearTimeout(timer);
    timer = setTimeout(() => refresh(true), 200);
  }

  const known = new Map(); // batch id -> its element
  async function poll() {
    clearTimeout(poll.timer);
    const found = await call("GET", "/api/batches").catch(() => null);
    await drawImported();
    const unfinished = (one) => one.read + one.failed.length < one.total || one.waiting > 0;
    const busy = found ? found.some(unfinished) : poll.busy;
    if (found) drawBatches(found, (one) => unfinished(one) || one.failed.length > 0);
    if ((busy || poll.busy) && root.offsetParent) refresh(true);
    poll.busy = busy;
    if (busy) poll.timer = setTimeout(poll, 1500);
  }

  /** Show which drafts of others no study has, by their rows in the table. */
  async function drawImported() {
    if (session.me?.model.state !== "imported") return;
    const found = await call("GET", "/api/drafts").catch(() => null);
    if (!found) return;
    const { name, rows: total, unused } = found;
    const [text, more] = imported.children;
    text.textContent = `${total - unused.length} of ${total} drafts of ${name} belong to studies. `;
    more.hidden = !unused.length;
    more.lastChild.replaceChildren(...unused.slice(0, 200).map((one) => h("li", {}, `row ${one.row}: ${one.reason}`)));
    imported.hidden = false;
  }

  /** Show the batches; parts that have been opened stay open, and what has ended stays until the reader goes on. */
  function drawBatches(found, worth) {
    const shown = [...found.filter(worth).slice(0, 5), ...found.filter((one) => !worth(one) && known.has(one.id))];
    for (const one of shown) {
      let element = known.get(one.id);
      if (!element) {
        element = h("li", {}, h("progress", { "aria-label": "Batch" }), h("span", {}), h("details", {}, h("summary", {}, "Refused files"), h("ul", {})));
        known.set(one.id, element);
        batches.append(element);
      }
      element.classList.toggle("lr-over", !worth(one));
      const [bar, text, refused] = element.children;
      Object.assign(bar, { max: one.total, value: one.read + one.failed.length - one.waiting });
      text.textContent = ` ${one.total} files: ${one.read} read, ${one.drafted} drafted${one.failed.length ? `, ${one.failed.length} refused` : ""}`;
      refused.hidden = !one.failed.length;
      const list = refused.querySelector("ul");
      for (const failed of one.failed.slice(list.children.length)) {
        list.append(h("li", {}, `file ${failed.number}${failed.sha256 ? ` (sha256 ${failed.sha256.slice(0, 12)})` : ""}: ${failed.reason}`));
      }
    }
  }

  function dropEnded() {
    for (const [id, element] of known) {
      if (!element.classList.contains("lr-over")) continue;
      element.remove();
      known.delete(id);
    }
  }

  session.addEventListener("worklist", () => root.isConnected && later());
  session.addEventListener("batch", poll);
  session.addEventListener("settings", () => filters.drawSaved());
  session.addEventListener("me", () => {
    drawHeads();
    drawImported();
  });
  let observed = false; // the first report comes at once, together with the first request
  new IntersectionObserver((seen) => {
    if (observed && seen.some((one) => one.isIntersecting)) refresh(rows.size > 0);
    observed = true;
  }).observe(root);
  setInterval(() => rows.tick(), 60_000);
  drawHeads();
  refresh();
  poll();
}
