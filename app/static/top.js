// Bar at the top, strip of warnings, messages, and files that are opened or dropped.
import { call } from "./calls.js";
import { ask, showSettings } from "./dialogs.js";
import { icon, sentence } from "./dom.js";
import { hint } from "./keys.js";
import { h, selectTab, session } from "./session.js";
import { unsent } from "./unsent.js";

/** Create the bar; `tabs` and `theme` are elements of the shell. */
export function createBar(tabs, theme) {
  const previous = h("button", { id: "previous", class: "lr-slot", "aria-label": "Previous study", onclick: (event) => go("previous", event) }, icon("previous"));
  const next = h("button", { id: "next", class: "lr-slot", "aria-label": "Next study", onclick: (event) => go("next", event) }, icon("next"));
  const name = h("h2", { id: "study-name" });
  const view = h("span", { id: "study-view", class: "lr-quiet" });
  const status = h("span", { id: "study-status" });
  const viewer = h("a", { id: "viewer-link", class: "lr-button lr-small", target: "_blank", rel: "noopener noreferrer", title: "The study in the viewer", hidden: true }, "Viewer");
  const user = h("span", { id: "user" });
  const file = h("input", { type: "file", id: "file", multiple: true, class: "lr-hidden-input", tabIndex: -1, "aria-label": "Image files" });
  file.addEventListener("change", () => {
    take([...file.files]);
    file.value = "";
  });
  const settings = h("button", { id: "keys", class: "lr-button", onclick: () => showSettings() }, "Keys");
  const element = h("header", { id: "bar" },
    h("h1", { title: "LLaVA-Rad review" }, "LLaVA-Rad", h("span", { class: "lr-unseen" }, " review")), previous, next, h("div", { id: "study" }, name, view, status, viewer),
    tabs, h("button", { id: "open", class: "lr-button", title: "Open radiographs: DICOM, PNG, JPEG, TIFF, WebP, zip", onclick: () => file.click() }, "Open …"), file, settings, theme, user);

  /** Open a neighbour; after a click its report takes the focus, which a button keeps that was pressed by a key. */
  function go(where, event) {
    if (event.detail) event.currentTarget.blur();
    session.go(where);
  }

  function draw() {
    const { study, neighbours } = session;
    name.textContent = study?.name ?? "No image";
    name.title = study?.name ?? "";
    view.textContent = study ? `${study.facts.view === "unknown" ? "view unknown" : study.facts.view}` : "";
    status.textContent = study ? `${study.status}${study.version > 1 ? `, version ${study.version}` : ""}` : "";
    status.className = `lr-status lr-${study?.status ?? "none"}`;
    viewer.hidden = !study?.viewer;
    if (study?.viewer) viewer.href = study.viewer;
    else viewer.removeAttribute("href");
    previous.disabled = !neighbours?.previous;
    next.disabled = !neighbours?.next;
    previous.title = hint("previous-study", "Previous open study of the worklist");
    next.title = hint("next-study", "Next open study of the worklist");
    settings.title = hint("settings", "Keys and macros");
  }
  session.addEventListener("me", () => {
    const { me } = session;
    user.replaceChildren(h("span", { title: "Reviewer" }, me.named_users ? me.user : "local user"));
    if (me.named_users) user.append(h("form", { method: "post", action: "/logout", onsubmit: leave }, h("button", { class: "lr-button" }, "Log out")));
  });
  for (const kind of ["study", "neighbours", "settings"]) session.addEventListener(kind, draw);
  draw();
  return element;
}

/** Log out: save what is being typed, and remove from the browser what cannot be saved. */
async function leave(event) {
  event.preventDefault();
  const form = event.target;
  document.activeElement.blur();
  await Promise.race([session.steps.settled(), new Promise((done) => setTimeout(done, 3000))]);
  const count = unsent.all().length;
  if (count && !(await ask(`${count === 1 ? "A text was" : `${count} texts were`} not saved. Logging out throws ${count === 1 ? "it" : "them"} away.`, "Log out"))) return;
  unsent.close();
  form.submit();
}

/** Create the strip of warnings, with the notice that always stands there. */
export function createStrip() {
  const list = h("ul", { id: "warnings", "aria-label": "Warnings" });
  const model = h("span", { id: "model" });
  const element = h("div", { id: "notices", role: "region", "aria-label": "Warnings and notice", tabIndex: 0 }, list,
    h("strong", { id: "notice" }, "AI-generated draft. Research use only. Not for clinical use."), model);
  session.addEventListener("me", () => {
    const { state, id, revision, sha256, demonstration, error } = session.me.model;
    model.textContent = state === "ready" ? `${id}${revision ? ` @ ${revision}` : ""}` : state === "loading" ? "model is loading …" : state === "imported" ? `drafts of ${id}` : "no model";
    model.title = sha256 ? `${state === "imported" ? "Table of drafts" : "Model"}, SHA-256 ${sha256}` : "";
    if (demonstration) model.append(h("em", { title: "Its findings are not reliable" }, "demonstration"));
    if (state === "failed") session.say(`The model cannot be loaded: ${error}`, "error");
  });
  session.addEventListener("study", () => {
    const about = { lateral: "Lateral: ", prior: "Prior: ", further: "Further image: " };
    const found = (session.study?.notices ?? []).toSorted((one, other) => (other.level === "loud") - (one.level === "loud"));
    list.replaceChildren(...found.map((one) => {
      const prefix = about[one.about] ?? "";
      return h("li", { class: one.level === "loud" ? "lr-loud" : "lr-chip" }, (one.text.startsWith(prefix) ? "" : prefix) + sentence(one.text));
    }));
  });
  return element;
}

/**
 * Create the place of messages. A message about an error stays until it is closed or another one comes, or until what it
 * says about the open study is over.
 */
export function createMessage() {
  const text = h("span");
  const actions = h("span", { class: "lr-actions" });
  const close = h("button", { class: "lr-link", "aria-label": "Close the message", onclick: () => session.say("") }, "×");
  const element = h("div", { id: "message-box", hidden: true }, h("div", { id: "message", role: "status", "aria-live": "polite" }, text), actions, close);
  const message = element.firstChild;
  let timer = null;
  let about = {}; // kind of the message, and the study and report on display when it came
  const report = () => JSON.stringify(session.study?.sentences.map(({ id, state, text }) => [id, state, text]));
  session.addEventListener("message", ({ detail }) => {
    clearTimeout(timer);
    about = { kind: detail.kind, study: session.study?.id, report: report() };
    text.textContent = detail.text;
    const error = ["error", "todo", "conflict"].includes(detail.kind);
    message.classList.toggle("lr-error", error);
    element.className = `lr-is-${error ? "error" : detail.kind}`;
    actions.replaceChildren(...detail.actions.map(({ label, act }) => h("button", { class: "lr-button lr-small", onclick: () => { session.say(""); act(); } }, label)));
    element.hidden = !detail.text;
    if (detail.kind === "info" && !detail.actions.length) timer = setTimeout(() => session.say(""), 8000);
  });
  session.addEventListener("study", ({ detail }) => {
    const over = detail.other ? ["todo", "conflict"].includes(about.kind) : about.kind === "todo" && report() !== about.report;
    if (over || (detail.other && session.study && about.kind === "info")) session.say("");
  });
  session.steps.addEventListener("status", ({ detail }) => {
    if (about.kind === "conflict" && detail.state?.id === about.study) session.say("");
  });
  return element;
}

/** Open one image, or read several files or a zip file into the worklist. */
async function take(files) {
  const zips = files.filter((file) => /\.zip$/i.test(file.name));
  const images = files.filter((file) => !zips.includes(file) && !file.name.startsWith(".") && file.name.toUpperCase() !== "DICOMDIR");
  if (images.length === 1 && !zips.length) {
    selectTab("Review");
    return session.upload(images[0]);
  }
  if (!images.length && !zips.length) return session.say("There is no file to read.", "error");
  const { sendFiles, sendZip } = await import("./worklist.js");
  const count = images.length + zips.length;
  session.say(`${count} ${count === 1 ? "file is" : "files are"} being read: see the worklist.`, "info", [{ label: "Worklist", act: () => selectTab("Worklist") }]);
  try {
    if (images.length) await sendFiles(images);
    for (const zip of zips) await sendZip(zip);
  } catch (error) {
    session.fail(error);
  }
  return null;
}

/** Return the files that were dropped, with those in folders. */
async function dropped(transfer) {
  const entries = [...transfer.items].filter((one) => one.kind === "file").map((one) => [one.webkitGetAsEntry?.(), one.getAsFile()]);
  const found = [];
  const walk = async (entry, path) => {
    if (entry.isFile) {
      const file = await new Promise((done, failed) => entry.file(done, failed));
      found.push(Object.assign(file, { path: path + file.name }));
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((done, failed) => reader.readEntries(done, failed));
      if (!some.length) return;
      for (const one of some) await walk(one, `${path}${entry.name}/`);
    }
  };
  for (const [entry, file] of entries) {
    if (entry?.isDirectory) await walk(entry, "");
    else if (file) found.push(file);
  }
  return found;
}

export function listenForFiles() {
  for (const kind of ["dragover", "drop"]) {
    addEventListener(kind, async (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      if (kind === "drop") take(await dropped(event.dataTransfer));
    });
  }
  // a page restored from the browser's cache may belong to a user who has logged out
  addEventListener("pageshow", (event) => event.persisted && location.reload());
  // after a long absence the study may have changed elsewhere, or the session may have expired
  document.addEventListener("visibilitychange", async () => {
    if (document.visibilityState !== "visible" || !session.study) return;
    const known = session.study;
    const now = await call("GET", `/api/studies/${known.id}`).catch(() => null);
    if (now && session.study?.id === now.id && now.revision > session.study.revision && !session.steps.waiting(now.id)) session.show(now);
  });
}
