// Draft and review: a reviewer accepts, edits or rejects every sentence before the report can be signed.
import { createAnnotations, isChanged } from "./annotations.js";
import { ask, choose } from "./dialogs.js";
import { icon, isTyping } from "./dom.js";
import { textBox } from "./editor.js";
import { createEnding } from "./ending.js";
import { createFields, takes } from "./fields.js";
import { createKept } from "./kept.js";
import { hint, register } from "./keys.js";
import { createLabels } from "./labels.js";
import { lines } from "./macros.js";
import { Row } from "./sentence.js";
import { h, session } from "./session.js";
import { isOwn } from "./steps.js";
import { unsent } from "./unsent.js";

const SECTIONS = { findings: "Findings", impression: "Impression" };

export function mount(root) {
  const fields = createFields(editable);
  const labels = createLabels(editable);
  const write = button("write", "Write draft", "Have the model write a draft", () => writeAgain());
  const grounded = h("input", { type: "checkbox", id: "grounded" });
  const asked = h("label", { for: "grounded", title: "The model marks its findings in the image; not proof" }, grounded, " with boxes");
  const outdated = h("span", { id: "outdated", class: "lr-chip lr-attention", role: "status" });
  const stop = button("stop", "Stop", "Stop writing; the text so far is kept", () => session.stop());
  const progress = h("span", { id: "progress", role: "status" });
  const stream = h("p", { id: "stream", "aria-label": "Draft being written" });
  const kept = createKept({ can: (one) => (one.kind === "field" ? editable() : deciding()), putBack });
  const parts = Object.fromEntries(Object.entries(SECTIONS).map(([name, title]) => [name, part(name, title)]));
  const sentences = h("div", { id: "sentences" }, ...Object.values(parts).map((one) => one.element));
  const ending = createEnding();
  const drafting = h("div", { class: "lr-line", id: "drafting" }, write, asked, stop, progress, outdated);
  const scrolled = h("div", { id: "report-scroll", onpointerup: () => refocus() },
    fields.element, drafting, kept.element, stream, sentences, labels.element, ending.element);

  const left = h("span", { id: "left", role: "status" });
  const rest = button("accept-rest", "Accept the rest", "", () => acceptRest());
  const undo = h("button", { id: "undo", class: "lr-slot", "aria-label": "Undo", onclick: () => session.act({ action: "undo" }) }, icon("undo"));
  const redo = h("button", { id: "redo", class: "lr-slot", "aria-label": "Redo", onclick: () => session.act({ action: "redo" }) }, icon("redo"));
  const sign = button("sign", "Sign", "", () => signNow(false));
  const signNext = button("sign-next", "Sign and next", "", () => signNow(true));
  const restore = button("restore", "Restore", "Continue this study", () => session.act({ action: "restore" }));
  const reopen = button("reopen", "Reopen", "Start a new version; the signed one is kept", () => session.act({ action: "reopen" }));
  const nextStudy = button("next-open", "Next study", "", () => session.go("next_undecided"));
  const annotations = createAnnotations({
    selected: () => find(selected), changed: changedSentence, can: deciding,
    acts: Object.fromEntries(["undecide", "revert", "show"].map((name) => [name, () => actOn(name)])),
  });
  const foot = h("footer", { id: "foot", onpointerup: () => refocus() }, annotations.element,
    h("div", { class: "lr-line" }, left, rest, h("span", { class: "lr-space" }), undo, redo, sign, signNext, restore, reopen, nextStudy));
  root.append(scrolled, foot);

  const rows = new Map(); // sentence id -> row
  let selected = null;
  let composing = null; // {box, element, section} of a sentence that is being added
  let changed = null; // id of the sentence that was changed last
  let wanted = false; // the list takes the focus when it has sentences
  let signing = false;

  const pane = {
    deciding, select, decided,
    decide(row, action, moves) {
      if (!deciding()) return;
      const own = isOwn(row.one);
      if (action === "reject" && own) session.act({ action: "remove", sentence: row.id });
      else session.act({ action, sentence: row.id });
      decided(row, moves && action !== "undecide" && action !== "revert");
    },
  };

  function button(id, label, title, onclick) {
    // the second click of a double click may meet another study
    return h("button", { id, class: "lr-button", title, onclick: (event) => event.detail < 2 && onclick() }, label);
  }

  function part(name, title) {
    const list = h("ol", { "aria-labelledby": `title-${name}` });
    const add = h("button", { class: "lr-link lr-add", id: name === "findings" ? "add" : "add-impression", onclick: () => compose({ section: name }) }, `Add to ${name}`);
    const normal = name === "findings" ? h("button", { class: "lr-link lr-add", id: "palette", onclick: () => addNormal() }, "Normal sentences …") : null;
    const element = h("section", { class: "lr-section", dataset: { section: name } }, h("h3", { id: `title-${name}` }, title), list, h("div", { class: "lr-line" }, add, normal));
    return { list, add, normal, element };
  }

  function editable() {
    return Boolean(session.study && ["pending", "draft"].includes(session.study.status));
  }

  /** Return true if sentences can be decided: not while a draft is being written, which would replace them. */
  function deciding() {
    return editable() && !["queued", "running"].includes(session.study.draft?.state);
  }

  const sectionOf = (one) => (one?.section === "impression" ? "impression" : "findings");
  const find = (id) => session.study?.sentences.find((one) => one.id === id);
  const undecided = () => session.study?.sentences.filter((one) => one.state === "undecided") ?? [];

  /** Return the sentence that a kind of error is about: the selected one if it is changed, else the one changed last. */
  function changedSentence() {
    if (!deciding()) return undefined;
    return [find(selected), find(changed)].find(isChanged);
  }

  function decided(row, moves) {
    changed = row.id;
    if (moves) move(1, true);
  }

  /** Do what the line below the report offers for the selected sentence. */
  function actOn(name) {
    if (!rows.has(selected)) return;
    if (name === "show") session.toggleEvidence(selected);
    else pane.decide(rows.get(selected), name, false);
  }

  async function writeAgain() {
    const count = session.study.sentences.filter((one) => one.state !== "undecided" || one.text !== one.draft).length;
    if (count && !(await ask(`A new draft replaces ${count} decided ${count === 1 ? "sentence" : "sentences"}. Undo brings ${count === 1 ? "it" : "them"} back.`, "Write again"))) return;
    session.write(count > 0, takes("grounded") && grounded.checked);
  }

  /** Finish the text that is being typed, in a sentence or in a field; the next keys belong to the list. */
  function finish() {
    if (fields.leave()) rows.get(selected)?.element.focus({ preventScroll: true });
    [...rows.values()].find((row) => row.box)?.box.end("done");
    if (composing?.element.contains(document.activeElement)) composing.box.end("done");
  }

  function acceptRest() {
    finish();
    if (deciding() && undecided().length) session.act({ action: "accept_rest" });
  }

  /** Open a text box for a new sentence after the selected one, or at the end of a section. */
  function compose({ section = sectionOf(find(selected)), value = "", after = selected } = {}) {
    if (!deciding()) return;
    if (composing) return composing.box.area.focus();
    const before = sectionOf(find(after)) === section && find(after) ? after : null;
    const box = textBox({
      value, saved: "", label: "New sentence", stays: true, properties: { id: "new-sentence" },
      entry: { study: session.study.id, kind: "new", section, after: before },
      finish: (how, typed, id) => end(how, typed, id),
    });
    const end = (how, typed, id) => {
      composing?.element.remove();
      composing = null;
      if (how === "left") return unsent.release(id);
      if (how === "done") add(lines(typed), section, before, id);
      (rows.get(selected)?.element ?? parts[section].add).focus();
    };
    const buttons = h("div", { class: "lr-line" },
      h("button", { class: "lr-button lr-small", onclick: () => box.end("done") }, "Add"), h("button", { class: "lr-button lr-small", onclick: () => box.end("given up") }, "Cancel"));
    composing = { box, section, element: h("li", { class: "lr-composing" }, box.element, buttons) };
    const at = rows.get(before)?.element;
    parts[section].list.hidden = false;
    at ? at.after(composing.element) : parts[section].list.append(composing.element);
    box.area.focus();
  }

  /** Add sentences one after the other, in one step; the last one is selected, so that the next follows it. */
  function add(texts, section, after, id = null) {
    if (!texts.length) return;
    const known = new Set(session.study.sentences.map((other) => other.id));
    session.act({ action: "add", ...(texts.length > 1 ? { texts } : { text: texts[0] }), after, section }, { text: id });
    changed = session.study.sentences.findLast((other) => !known.has(other.id))?.id ?? after;
    select(changed);
  }

  async function addNormal() {
    const at = find(selected);
    const chosen = await choose();
    if (chosen && deciding()) add([chosen], "findings", sectionOf(at) === "findings" && at ? at.id : null);
    if (!isTyping(document.activeElement)) focusRow(selected);
  }

  function select(id) {
    selected = id;
    session.select(id);
    for (const [key, row] of rows) {
      row.element.tabIndex = key === id ? 0 : -1;
      row.element.toggleAttribute("data-selected", key === id);
    }
    annotations.show();
  }

  /** Select another sentence; after a decision, the next undecided one, from the top if there is none below. */
  function move(step, open = false) {
    const order = session.study?.sentences ?? [];
    let at = order.findIndex((one) => one.id === selected);
    if (open) {
      const next = [...order.slice(at + 1), ...order.slice(0, at + 1)].find((one) => one.state === "undecided");
      at = next ? order.indexOf(next) : at;
    } else at = Math.min(Math.max(at + step, 0), order.length - 1);
    focusRow(order[at]?.id);
  }

  function focusRow(id) {
    const row = rows.get(id);
    if (!row) return;
    select(id);
    row.element.focus({ preventScroll: true });
    row.element.scrollIntoView({ block: "nearest" });
  }

  function focusList() {
    focusRow(undecided()[0] && find(selected)?.state !== "undecided" ? undecided()[0].id : selected);
  }

  /** Give the focus back to the selected sentence after a click on an empty place of the report. */
  function refocus() {
    setTimeout(() => {
      if (document.activeElement === document.body && !getSelection().toString()) rows.get(selected)?.element.focus({ preventScroll: true });
    });
  }

  async function signNow(next) {
    finish();
    if (composing?.box.area.value.trim()) {
      composing.box.area.focus();
      return session.say("A new sentence is not added yet: Enter adds it, Esc gives it up.", "todo");
    }
    if (!deciding() || signing) return null;
    const open = undecided();
    if (open.length) {
      focusRow(open[0].id);
      return session.say(open.length === 1 ? "One sentence is still to be decided." : `${open.length} sentences are still to be decided; this is the first.`, "todo");
    }
    if (!session.study.sentences.some((one) => one.state !== "rejected")) return session.say("There is no sentence to sign.", "todo");
    const { id, name } = session.study;
    const following = () => session.neighbours?.next_undecided ?? session.neighbours?.next;
    let target = following();
    signing = true;
    draw();
    const state = await session.act({ action: "sign" });
    signing = false;
    draw();
    if (state?.status !== "signed" || session.study?.id !== id || !next) return null;
    if (!target) {
      await session.lookAhead(); // studies may have come meanwhile
      target = session.study?.id === id ? following() : null;
    }
    if (target) await session.open(target);
    return session.say(target ? `Signed: ${name}.` : `Signed: ${name}. There is no further open study ${session.among}.`);
  }

  function putBack(one) {
    if (one.kind === "field") fields.put(one.field, one.text);
    else if (one.kind === "edit" && rows.has(one.sentence) && find(one.sentence).draft === one.draft) {
      focusRow(one.sentence);
      rows.get(one.sentence).edit(one.text);
    } else {
      if (composing) return;
      compose({ section: one.section, value: one.text, after: one.after ?? selected });
    }
    unsent.drop(one.id);
  }

  function drawSentences() {
    const all = session.study?.sentences ?? [];
    const ids = new Set(all.map((one) => one.id));
    const typing = isTyping(document.activeElement);
    let lost = false; // the focus was in a row that is gone
    for (const [number, [id, row]] of [...rows].entries()) {
      if (ids.has(id)) continue;
      row.box?.end("replaced");
      lost ||= row.element.contains(document.activeElement);
      row.element.remove();
      rows.delete(id);
      if (id === selected) selected = all[Math.min(number, all.length - 1)]?.id ?? null;
    }
    const last = { findings: null, impression: null };
    for (const [number, one] of all.entries()) {
      const row = rows.get(one.id) ?? new Row(one, pane);
      rows.set(one.id, row);
      row.update(one, number + 1, all.length);
      const name = sectionOf(one);
      const before = last[name] ? last[name].nextElementSibling : parts[name].list.firstElementChild;
      if (before !== row.element && !(before === composing?.element && before?.nextElementSibling === row.element)) {
        if (last[name]) last[name].after(row.element);
        else parts[name].list.prepend(row.element);
      }
      last[name] = row.element;
    }
    for (const [name, { element, list, add, normal }] of Object.entries(parts)) {
      const can = deciding();
      element.hidden = !list.children.length && !can;
      list.hidden = !list.children.length && composing?.section !== name;
      add.hidden = !can;
      if (normal) normal.hidden = !can;
    }
    select(ids.has(selected) ? selected : all.find((one) => one.state === "undecided")?.id ?? all[0]?.id ?? null);
    if (lost) focusRow(selected);
    if (wanted && all.length) {
      wanted = false;
      const at = document.activeElement;
      if (!typing && (at === document.body || root.contains(at))) focusList();
    }
  }

  function draw() {
    const [{ study }, at] = [session, document.activeElement];
    const can = editable();
    const { state, position, error } = study?.draft ?? {};
    const busy = state === "queued" || state === "running";
    const count = study?.undecided ?? 0;
    fields.show();
    asked.hidden = !takes("grounded") || !can;
    outdated.textContent = study?.outdated && can && !busy ? "fields or images have changed since this draft" : "";
    write.disabled = !can || busy;
    write.hidden = !session.writes || (Boolean(study) && !can);
    write.textContent = study?.sentences.length ? "Write again" : "Write draft";
    write.classList.toggle("lr-primary", can && !study.sentences.length && !busy);
    stop.hidden = !busy;
    progress.textContent = !study ? "" : state === "queued" ? `waiting, ${position} in the queue` : state === "running" ? "writing …"
      : state === "stopped" ? "stopped" : state === "failed" ? `The draft failed: ${error}` : "";
    progress.classList.toggle("lr-error", state === "failed");
    drafting.hidden = write.hidden && stop.hidden && !progress.textContent;
    stream.textContent = busy ? study.draft.text : "";
    stream.hidden = !busy;
    drawSentences();
    labels.show();
    annotations.show();
    kept.show();
    left.textContent = !study?.sentences.length ? "" : count ? `${count} to decide` : study.status === "draft" ? "all decided" : "";
    rest.hidden = undo.hidden = redo.hidden = sign.hidden = signNext.hidden = !can;
    rest.disabled = busy || !count;
    [undo.disabled, redo.disabled] = [busy || !study?.can_undo, busy || !study?.can_redo];
    sign.disabled = signNext.disabled = busy || signing || !study?.sentences.length;
    signNext.classList.toggle("lr-primary", can && !signNext.disabled && !count);
    [restore.hidden, reopen.hidden] = [study?.status !== "discarded", study?.status !== "signed"];
    nextStudy.hidden = !study || can || !session.neighbours?.next_undecided;
    ending.show(can);
    foot.hidden = !study;
    if (root.contains(at) && (at.disabled || at.closest("[hidden]"))) rows.get(selected)?.element.focus({ preventScroll: true });
  }

  function drawHints() {
    for (const [id, element, label] of [["rest", rest, "Accept all sentences that are to decide, as they are"], ["undo", undo, "Undo"], ["redo", redo, "Redo"], ["sign", sign, "Sign and stay"],
      ["sign-next", signNext, "Sign and open the next study"], ["add", parts.findings.add, "Add a sentence after the selected one"], ["add-impression", parts.impression.add, "Add to the impression"],
      ["palette", parts.findings.normal, "Normal sentences by anatomy"], ["next-study", nextStudy, "Next study"]]) element.title = hint(id, label);
    draw();
  }

  session.addEventListener("study", ({ detail }) => {
    if (detail.other) {
      grounded.checked = Boolean(session.study?.draft?.inputs?.grounded);
      composing?.box.end("left");
      for (const row of rows.values()) {
        row.box?.end("left");
        row.element.remove();
      }
      rows.clear();
      selected = changed = null;
      scrolled.scrollTop = 0;
      wanted = Boolean(session.study);
    }
    draw();
  });
  session.addEventListener("draft", ({ detail }) => {
    if (!session.study) return;
    session.study.draft = { ...session.study.draft, ...detail };
    wanted = true;
    draw();
  });
  for (const kind of ["me", "neighbours"]) session.addEventListener(kind, draw);
  session.addEventListener("settings", drawHints);
  session.addEventListener("evidence", annotations.show);

  /** Register a command of the list of sentences. */
  function command(id, label, keys, act, more = {}) {
    register({ id, label, scope: "report", keys, act, when: deciding, once: true, ...more });
  }

  const buttonOf = (name) => annotations.element.querySelector(`.lr-do-${name}`);
  const onRow = (act) => () => rows.has(selected) && act(rows.get(selected));
  const onList = () => rows.get(selected)?.element.contains(document.activeElement);
  command("next", "Next sentence", ["j", "ArrowDown", "Alt+ArrowDown"], () => move(onList() ? 1 : 0), { when: () => rows.size > 0, once: false });
  command("previous", "Previous sentence", ["k", "ArrowUp", "Alt+ArrowUp"], () => move(onList() ? -1 : 0), { when: () => rows.size > 0, once: false });
  for (let number = 1; number <= 9; number += 1) {
    command(`sentence-${number}`, `Sentence ${number}`, [String(number)], () => focusRow(session.study.sentences[number - 1]?.id), { when: () => rows.size >= number });
  }
  command("accept", "Accept, and go to the next that is to decide", ["a", "Alt+a"], onRow((row) => (row.one.state === "undecided" || row.one.state === "rejected" ? pane.decide(row, "accept", true) : move(1, true))));
  command("edit", "Edit (Enter: done, Esc: give up)", ["e", "Alt+e"], onRow((row) => row.edit()));
  command("reject", "Reject; remove a sentence of your own", ["x", "Alt+x"], onRow((row) => pane.decide(row, "reject", true)));
  command("undecide", "Decide later", ["u", "Alt+u"], () => buttonOf("undecide").click());
  command("revert", "Back to the draft's sentence", ["r", "Alt+r"], () => buttonOf("revert").click());
  command("show", "Where the model looked", ["s", "Alt+s"], () => buttonOf("show").click(), { when: () => rows.size > 0 });
  command("add", "Add a sentence after the selected one", ["n", "Alt+n"], () => compose());
  command("add-impression", "Add to the impression", ["Shift+n", "Alt+Shift+n"], () => compose({ section: "impression" }));
  command("palette", "Normal sentences by anatomy", ["i", "Alt+i"], () => addNormal());
  command("rest", "Accept the rest; in a text: finish it and accept the rest", ["Shift+a", "Alt+Enter"], () => acceptRest(), { typing: true });
  command("undo", "Undo", ["Ctrl+z"], () => undo.click(), { once: false });
  command("redo", "Redo", ["Ctrl+y", "Ctrl+Shift+z"], () => redo.click(), { once: false });
  command("sign-next", "Sign and open the next study", ["Ctrl+Enter"], () => signNow(true), { when: editable, typing: true });
  command("sign", "Sign and stay", ["Ctrl+Shift+Enter"], () => signNow(false), { when: editable, typing: true });
  command("next-study", "Next study", ["Shift+j", "Alt+PageDown"], () => session.go("next"), { when: () => true });
  command("previous-study", "Previous study", ["Shift+k", "Alt+PageUp"], () => session.go("previous"), { when: () => true });
  drawHints();
}
