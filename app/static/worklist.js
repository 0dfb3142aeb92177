// Worklist: open, search and export studies, upload images, folders and zip files.
import { call, h, selectTab, session } from "./session.js";

const STATUSES = ["pending", "draft", "signed", "discarded"];
const PAGE = 100;

export function mount(root) {
  let status = "";
  let offset = 0;
  let asked = 0;
  const filters = h("div", { role: "group", "aria-label": "Status", class: "lr-line" });
  const search = h("input", { type: "search", id: "search", placeholder: "Search name, text, indication, SHA-256", "aria-label": "Search", oninput: () => later() });
  const body = h("tbody");
  const table = h("table", { id: "studies" }, h("thead", {}, h("tr", {}, ...["Study", "Status", "Draft", "View", "To decide", "Warnings", "Changed"].map((title) => h("th", { scope: "col" }, title)))), body);
  const empty = h("p", { class: "lr-quiet" });
  const more = h("button", { class: "lr-button", onclick: () => { offset += PAGE; refresh(true); } }, "More");
  const batches = h("ul", { id: "batches", "aria-label": "Batches", role: "list" });
  const zip = h("input", { type: "file", id: "zip", accept: ".zip", class: "lr-hidden-input", tabIndex: -1, "aria-label": "Zip file", onchange: () => take(zip, (files) => sendZip(files[0])) });
  const folder = h("input", { type: "file", id: "folder", class: "lr-hidden-input", tabIndex: -1, "aria-label": "Folder", onchange: () => take(folder, sendFiles) });
  folder.webkitdirectory = true;
  const files = h("input", { type: "file", id: "files", multiple: true, class: "lr-hidden-input", tabIndex: -1, "aria-label": "Image files", onchange: () => take(files, sendFiles) });
  root.append(
    h("div", { class: "lr-line" }, filters, search, h("span", { class: "lr-space" }),
      h("button", { class: "lr-button", onclick: () => files.click() }, "Add images …"), files,
      h("button", { class: "lr-button", onclick: () => folder.click() }, "Add folder …"), folder,
      h("button", { class: "lr-button", onclick: () => zip.click() }, "Add zip …"), zip,
      h("a", { class: "lr-button", id: "export-jsonl", href: "/api/export.jsonl", download: "" }, "Export JSONL"),
      h("a", { class: "lr-button", id: "export-zip", href: "/api/export.zip", download: "", title: "Signed studies for research: 16-bit PNG images without headers, reports, labels" }, "Export set"),
      h("a", { class: "lr-button", id: "export-csv", href: "/api/export.csv", download: "" }, "Export CSV")),
    batches, table, empty, more);

  function take(input, then) {
    const taken = [...input.files];
    input.value = "";
    if (taken.length) then(taken).catch((error) => session.fail(error)).finally(refresh);
  }

  async function sendZip(file) {
    session.say("Sending the archive …", "busy");
    await call("POST", "/api/batches", { body: file, headers: { "content-type": "application/zip" } });
    session.say("");
    poll();
  }

  async function sendFiles(taken) {
    const named = taken.filter((file) => !file.name.startsWith(".") && file.name.toUpperCase() !== "DICOMDIR");
    const { batch } = await call("POST", "/api/batches", { json: { total: named.length } });
    poll();
    for (const [index, file] of named.entries()) {
      await call("POST", `/api/studies?batch=${batch}&number=${index + 1}`, { body: file, headers: session.nameOf(file) });
    }
  }

  let timer = null;
  function later() {
    clearTimeout(timer);
    timer = setTimeout(refresh, 200);
  }

  async function refresh(append = false) {
    if (append !== true) offset = 0;
    const mine = ++asked;
    const query = new URLSearchParams({ status, search: search.value, limit: PAGE, offset });
    const found = await call("GET", `/api/studies?${query}`).catch((error) => session.fail(error));
    if (!found || mine !== asked) return;
    const total = STATUSES.reduce((sum, one) => sum + (found.counts[one] ?? 0), 0);
    filters.replaceChildren(...["", ...STATUSES].map((one) => h("button", {
      class: "lr-button lr-small", "aria-pressed": String(one === status), dataset: { status: one || "all" },
      onclick: () => { status = one; refresh(); },
    }, `${one || "all"} ${one ? (found.counts[one] ?? 0) : total}`)));
    if (append !== true) body.replaceChildren();
    for (const one of found.studies) body.append(line(one));
    table.hidden = !body.children.length;
    empty.textContent = body.children.length ? "" : search.value || status ? "No study matches." : "No studies yet: open an image, or add a folder or a zip file.";
    more.hidden = found.studies.length < PAGE;
  }

  function line(one) {
    const open = () => {
      selectTab("Review");
      session.open(one.id);
    };
    return h("tr", { dataset: { study: one.id }, ondblclick: open, class: one.id === session.study?.id ? "lr-current" : "" },
      h("th", { scope: "row" }, h("button", { class: "lr-link", onclick: open }, one.name)),
      h("td", {}, h("span", { class: `lr-status lr-${one.status}` }, one.status), one.version > 1 ? ` version ${one.version}` : ""),
      h("td", {}, one.draft ?? ""), h("td", {}, one.view), h("td", {}, one.sentences ? `${one.undecided} of ${one.sentences}` : ""),
      h("td", {}, one.warnings ? String(one.warnings) : ""), h("td", {}, new Date(one.changed).toLocaleString()));
  }

  async function poll() {
    clearTimeout(poll.timer);
    const found = await call("GET", "/api/batches").catch(() => []);
    const shown = found.filter((one) => one.read + one.failed.length < one.total || one.waiting || one.failed.length).slice(0, 5);
    batches.replaceChildren(...shown.map((one) => h("li", {},
      h("progress", { max: one.total, value: one.drafted + one.failed.length, "aria-label": "Batch" }),
      ` ${one.total} files: ${one.read} read, ${one.drafted} drafted${one.failed.length ? `, ${one.failed.length} refused` : ""}`,
      one.failed.length ? h("details", {}, h("summary", {}, "Refused files"), h("ul", {}, ...one.failed.map((failed) =>
        h("li", {}, `file ${failed.number}${failed.sha256 ? ` (sha256 ${failed.sha256.slice(0, 12)})` : ""}: ${failed.reason}`)))) : null)));
    const busy = found.some((one) => one.read + one.failed.length < one.total || one.waiting);
    if ((busy || poll.busy) && root.offsetParent) refresh();
    poll.busy = busy;
    if (busy) {
      poll.timer = setTimeout(poll, 1500);
    }
  }

  session.addEventListener("worklist", () => root.isConnected && later());
  new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && refresh()).observe(root);
  refresh();
  poll();
}
