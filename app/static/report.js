// Draft and review: a reviewer accepts, edits or rejects every sentence before the report can be signed.
import { describeBoxes } from "./overlays.js";
import { PAUSE_MS, createFields, takes } from "./fields.js";
import { h, session } from "./session.js";

const STATES = { undecided: "to decide", accepted: "accepted", edited: "edited", rejected: "rejected", added: "added" };

export function mount(root) {
  const fields = createFields(editable);
  const write = button("write", "Write draft", "Have the model write a draft", () => session.write(decided() > 0, takes("grounded") && grounded.checked));
  const grounded = h("input", { type: "checkbox", id: "grounded" });
  const asked = h("label", { for: "grounded", title: "The model marks its findings in the image; not proof" }, grounded, " with boxes");
  const outdated = h("span", { id: "outdated", class: "lr-chip lr-attention", role: "status" });
  const stop = button("stop", "Stop", "Stop writing; the text so far is kept", () => session.stop());
  const progress = h("span", { id: "progress", role: "status" });
  const stream = h("p", { id: "stream", "aria-label": "Draft being written" });
  const list = h("ol", { id: "sentences", "aria-label": "Sentences of the report" });
  const add = button("add", "Add sentence", "Add a sentence after the selected one (n)", () => compose());
  const undo = button("undo", "Undo", "Undo the last step (Ctrl+Z)", () => session.act({ action: "undo" }));
  const sign = button("sign", "Sign", "Sign the report (Ctrl+Enter); every sentence must be decided", () => signNow());
  const discard = button("discard", "Discard", "Close this study without a report", () => session.act({ action: "discard" }));
  const restore = button("restore", "Restore", "Continue this study", () => session.act({ action: "restore" }));
  const reopen = button("reopen", "Reopen", "Start a new version; the signed one is kept", () => session.act({ action: "reopen" }));
  const text = h("a", { id: "export-text", class: "lr-button", download: "" }, "Text");
  const json = h("a", { id: "export-json", class: "lr-button", download: "" }, "JSON");
  const documents = h("span", { id: "export-documents", class: "lr-line" });
  const left = h("span", { id: "left", role: "status" });
  const signed = h("div", { id: "signed" });
  const labels = h("table", { id: "labels" });
  const all = h("input", { type: "checkbox", id: "all-labels", onchange: () => drawLabels() });
  const keys = h("details", { class: "lr-keys" }, h("summary", {}, "Keys"),
    h("p", {}, "j k: next, last sentence · a: accept · e: edit · x: reject · u: undecide · s: where the model looked · n: add · Ctrl+Z: undo · Ctrl+Enter: sign. In a text: Enter saves, Esc gives up the change."));
  root.append(
    fields.element,
    h("div", { class: "lr-line" }, write, asked, stop, progress, outdated), stream, list,
    h("div", { class: "lr-line" }, add, undo, h("span", { class: "lr-space" }), left),
    h("div", { class: "lr-line", id: "ending" }, sign, discard, restore, reopen, h("span", { class: "lr-space" }), text, json, documents),
    signed,
    h("section", { "aria-labelledby": "labels-title" },
      h("div", { class: "lr-line" }, h("h3", { id: "labels-title" }, "Findings in the report"), h("label", { for: "all-labels" }, all, " all 14")), labels),
    keys);

  const rows = new Map(); // sentence id -> row
  let selected = null;
  let composing = null; // the row of a sentence that is being added

  function button(id, label, title, onclick) {
    return h("button", { id, class: "lr-button", title, onclick }, label);
  }

  function decided() {
    return session.study?.sentences.filter((one) => one.state !== "undecided").length ?? 0;
  }

  function editable() {
    return session.study && ["pending", "draft"].includes(session.study.status);
  }

  /** Return true if sentences can be decided: not while a draft is being written, which would replace them. */
  function deciding() {
    return editable() && !["queued", "running"].includes(session.study.draft?.state);
  }

  class Row {
    constructor(one) {
      this.id = one.id;
      this.text = h("span", { class: "lr-text", ondblclick: () => this.edit() });
      this.was = h("del", { class: "lr-was" });
      this.state = h("span", { class: "lr-state" });
      this.boxes = h("span", { class: "lr-boxes", title: "Boxes in which the model located this sentence; not proof" });
      this.accept = this.tool("accept", "Accept", "a", () => this.decide("accept"));
      this.change = this.tool("edit", "Edit", "e", () => this.edit());
      this.reject = this.tool("reject", "Reject", "x", () => this.decide("reject"));
      this.open = this.tool("undecide", "Undecide", "u", () => session.act({ action: "undecide", sentence: this.id }));
      this.remove = this.tool("remove", "Remove", "x", () => session.act({ action: "remove", sentence: this.id }));
      this.show = this.tool("show", "Show", "s", () => session.toggleEvidence(this.id));
      this.show.title = "Where the model looked while it wrote this sentence; not proof (s)";
      this.tools = h("span", { class: "lr-tools", role: "group" }, this.accept, this.change, this.reject, this.remove, this.open, this.show);
      this.body = h("div", { class: "lr-body" }, this.text, this.was);
      this.element = h("li", { tabIndex: -1, dataset: { sentence: one.id }, onfocusin: () => select(this.id) }, this.body, h("div", { class: "lr-line" }, this.state, this.boxes, h("span", { class: "lr-space" }), this.tools));
      this.area = null;
      this.update(one);
    }

    tool(name, label, key, onclick) {
      return h("button", { class: `lr-button lr-small lr-do-${name}`, title: `${label} (${key})`, onclick }, label);
    }

    update(one) {
      this.one = one;
      this.text.textContent = one.text;
      this.was.textContent = one.state === "edited" && one.draft !== null ? one.draft : "";
      this.was.hidden = !this.was.textContent;
      this.state.textContent = STATES[one.state];
      this.boxes.textContent = describeBoxes(one);
      this.element.className = `lr-sentence lr-is-${one.state}`;
      const can = deciding();
      const own = one.state === "added";
      this.accept.hidden = !can || own || one.state === "accepted";
      this.change.hidden = !can;
      this.reject.hidden = !can || own || one.state === "rejected";
      this.remove.hidden = !can || !own;
      this.open.hidden = !can || own || one.state === "undecided";
      this.show.hidden = one.draft === null || Boolean(session.study.draft?.inputs?.grounded);
      for (const tool of this.tools.children) tool.setAttribute("aria-label", `${tool.textContent}: ${one.text}`);
    }

    decide(action) {
      if (!deciding()) return;
      session.act({ action, sentence: this.id });
      move(1, true);
    }

    edit() {
      if (!deciding() || this.area) return;
      this.sent = this.one.text;
      this.area = editor(this.one.text, (value) => this.save(value), () => this.close());
      this.body.hidden = true;
      this.element.prepend(this.area);
      this.area.focus();
    }

    /** Save a changed text; returns false if there is nothing to save. */
    save(value) {
      const text = value.trim().replace(/\s+/g, " ");
      if (!text || text === this.sent) return false;
      this.sent = text;
      session.act({ action: "edit", sentence: this.id, text }, { keepalive: true });
      return true;
    }

    close() {
      this.area?.remove();
      this.area = null;
      this.body.hidden = false;
      this.element.focus();
    }
  }

  /** Create a text box that saves after a pause, on Enter and on blur; Esc undoes what it has saved. */
  function editor(value, save, close) {
    let timer = null;
    let over = false;
    let saved = 0;
    const flush = () => {
      clearTimeout(timer);
      timer = null;
      if (save(area.value)) saved += 1;
    };
    const end = () => {
      over = true;
      close();
      removeEventListener("pagehide", flush);
    };
    const area = h("textarea", {
      class: "lr-editor", rows: 2, maxLength: 4000, value, "aria-label": "Text of the sentence",
      oninput: () => {
        clearTimeout(timer);
        timer = setTimeout(flush, PAUSE_MS);
      },
      onblur: () => {
        if (over) return;
        flush();
        end();
      },
      onkeydown: (event) => {
        event.stopPropagation();
        if (event.key === "Enter" && !event.shiftKey) {
          event.preventDefault();
          flush();
          end();
        } else if (event.key === "Escape") {
          clearTimeout(timer);
          for (; saved; saved -= 1) session.act({ action: "undo" });
          end();
        }
      },
    });
    addEventListener("pagehide", flush);
    return area;
  }

  function compose() {
    if (!deciding() || composing) return;
    const after = selected;
    const at = rows.get(after)?.element;
    const done = () => {
      composing?.remove();
      composing = null;
      (rows.get(selected)?.element ?? add).focus();
    };
    let made = false;
    // saved once, on blur: an unfinished sentence is not yet part of the report
    const area = h("textarea", {
      class: "lr-editor", id: "new-sentence", rows: 2, maxLength: 4000, "aria-label": "New sentence",
      onblur: () => finish(true),
      onkeydown: (event) => {
        event.stopPropagation();
        if (event.key === "Enter" && !event.shiftKey) {
          event.preventDefault();
          finish(true);
        } else if (event.key === "Escape") finish(false);
      },
    });
    const finish = (keep) => {
      if (made) return;
      made = true;
      if (keep && area.value.trim()) session.act({ action: "add", text: area.value, after }, { keepalive: true });
      done();
    };
    composing = h("li", { class: "lr-sentence" }, area);
    if (at) at.after(composing);
    else list.append(composing);
    area.focus();
  }

  function select(id) {
    selected = id;
    session.select(id);
    for (const [key, row] of rows) {
      row.element.tabIndex = key === id ? 0 : -1;
      row.element.toggleAttribute("data-selected", key === id);
    }
  }

  /** Select another sentence; after a decision, the next undecided one. */
  function move(step, undecided = false) {
    const order = session.study?.sentences.map((one) => one.id) ?? [];
    let at = order.indexOf(selected);
    if (undecided) {
      const next = session.study.sentences.findIndex((one, index) => index > at && one.state === "undecided");
      at = next < 0 ? at : next;
    } else {
      at = Math.min(Math.max(at + step, 0), order.length - 1);
    }
    const row = rows.get(order[at]);
    if (row) {
      select(row.id);
      row.element.focus();
      row.element.scrollIntoView({ block: "nearest" });
    }
  }

  function signNow() {
    if (document.activeElement?.classList.contains("lr-editor")) document.activeElement.blur();
    session.act({ action: "sign" });
  }

  function drawSentences() {
    const sentences = session.study?.sentences ?? [];
    const ids = new Set(sentences.map((one) => one.id));
    for (const [id, row] of rows) {
      if (!ids.has(id)) {
        row.element.remove();
        rows.delete(id);
      }
    }
    let last = null;
    for (const [number, one] of sentences.entries()) {
      let row = rows.get(one.id);
      if (!row) {
        row = new Row(one);
        rows.set(one.id, row);
      } else row.update(one);
      row.element.setAttribute("aria-label", `Sentence ${number + 1} of ${sentences.length}, ${[STATES[one.state], describeBoxes(one)].filter(Boolean).join(", ")}: ${one.text}`);
      const before = last ? last.nextElementSibling : list.firstElementChild;
      if (before !== row.element) {
        if (last) last.after(row.element);
        else list.prepend(row.element);
      }
      last = row.element;
    }
    if (!ids.has(selected)) select(sentences[0]?.id ?? null);
    else select(selected);
  }

  function drawLabels() {
    const found = session.study?.labels ?? [];
    const shown = found.filter((one) => all.checked || one.draft !== "not mentioned" || one.present !== "not mentioned");
    labels.replaceChildren(
      h("thead", {}, h("tr", {}, ...["Finding", "Draft", "Now", ""].map((title) => h("th", { scope: "col" }, title)))),
      h("tbody", {}, ...shown.map((one) => {
        const differs = one.draft !== one.present;
        return h("tr", { class: differs ? "lr-differs" : "", dataset: { finding: one.finding } },
          h("th", { scope: "row" }, one.finding), h("td", {}, one.draft), h("td", { class: `lr-${one.present.replace(" ", "-")}` }, one.present), h("td", {}, differs ? "changed" : ""));
      })));
    labels.hidden = !shown.length;
  }

  function draw() {
    const { study } = session;
    const can = Boolean(editable());
    const { state, position, error } = study?.draft ?? {};
    const busy = state === "queued" || state === "running";
    fields.show();
    asked.hidden = !takes("grounded");
    outdated.textContent = study?.outdated && can && !busy ? "fields or images have changed since this draft" : "";
    write.disabled = !can || busy;
    write.textContent = study?.sentences.length ? "Write again" : "Write draft";
    write.classList.toggle("lr-primary", can && !study.sentences.length && !busy);
    stop.hidden = !busy;
    progress.textContent = !study ? "" : state === "queued" ? `waiting, ${position} in the queue` : state === "running" ? "writing …"
      : state === "stopped" ? "stopped" : state === "failed" ? `The draft failed: ${error}` : "";
    progress.classList.toggle("lr-error", state === "failed");
    stream.textContent = busy ? study.draft.text : "";
    stream.hidden = !busy;
    drawSentences();
    drawLabels();
    const open = study?.undecided ?? 0;
    left.textContent = !study?.sentences.length ? "" : open ? `${open} to decide` : study.status === "draft" ? "all decided" : "";
    add.hidden = undo.hidden = !can;
    add.disabled = busy;
    undo.disabled = busy || !study?.can_undo;
    sign.hidden = discard.hidden = !can;
    sign.disabled = !study?.sentences.length || open > 0 || busy;
    sign.classList.toggle("lr-primary", can && !sign.disabled);
    restore.hidden = study?.status !== "discarded";
    reopen.hidden = study?.status !== "signed";
    text.hidden = json.hidden = !study?.sentences.length;
    if (!documents.children.length) {
      documents.append(...(session.me?.exports ?? []).map(({ name, title, file }) =>
        h("a", { id: `export-${name}`, class: "lr-button", download: "", title, "data-file": file }, name.toUpperCase())));
    }
    documents.hidden = !study?.draft?.report;
    if (study) {
      text.href = `/api/studies/${study.id}/report.txt`;
      json.href = `/api/studies/${study.id}/report.json`;
      for (const link of documents.children) link.href = `/api/studies/${study.id}/${link.dataset.file}`;
    }
    signed.replaceChildren(...(study?.signed ?? []).toReversed().map((one) =>
      h("section", { class: "lr-signed" }, h("h3", {}, `Signed, version ${one.version}`), h("p", {}, one.text), h("p", { class: "lr-quiet" }, `by ${one.by}, ${new Date(one.at).toLocaleString()}`))));
  }

  session.addEventListener("study", ({ detail }) => {
    if (detail.other) {
      grounded.checked = Boolean(session.study?.draft?.inputs?.grounded);
      composing?.remove();
      composing = null;
      for (const row of rows.values()) row.element.remove();
      rows.clear();
      selected = null;
    }
    draw();
  });
  session.addEventListener("draft", ({ detail }) => {
    if (!session.study) return;
    session.study.draft = { ...session.study.draft, ...detail };
    draw();
  });
  session.addEventListener("me", draw);
  session.addEventListener("evidence", () => {
    for (const [id, row] of rows) row.show.setAttribute("aria-pressed", String(session.evidence?.sentence === id));
  });

  document.addEventListener("keydown", (event) => {
    const target = event.target;
    const typing = target.closest?.("textarea, input, select, [contenteditable]");
    const control = event.ctrlKey || event.metaKey;
    if (root.closest("[role=tabpanel]")?.hidden || !root.offsetParent) return;
    if (control && event.key === "Enter" && !sign.hidden) {
      if (typing) typing.blur();
      if (!sign.disabled || typing) signNow();
    } else if (typing || !deciding()) return;
    else if (control && event.key === "z") session.act({ action: "undo" });
    else if (control || event.altKey || target.closest?.(".lr-viewer, [role=tablist]")) return;
    else if (event.key === "j") move(rows.get(selected)?.element.contains(document.activeElement) ? 1 : 0);
    else if (event.key === "k") move(-1);
    else if (event.key === "n") compose();
    else {
      const row = rows.get(selected);
      const act = { a: row?.accept, e: row?.change, x: row?.reject.hidden ? row?.remove : row?.reject, u: row?.open, s: row?.show }[event.key];
      if (!act || act.hidden) return;
      act.click();
    }
    event.preventDefault();
  });
  draw();
}
