// Dialogs: a question, the palette of normal sentences, and the settings with keys and macros.
import { h, isTyping } from "./dom.js";
import { allCommands, keysOf, nameOf, register, shown } from "./keys.js";
import { macros, normalSentences } from "./macros.js";
import { session } from "./session.js";

/** Show a dialog until it is closed; returns a promise of its return value. */
function open(dialog) {
  document.querySelector("#app").append(dialog);
  dialog.showModal();
  return new Promise((done) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      done(dialog.returnValue);
    });
  });
}

function closing(label, properties = {}) {
  return h("button", { class: "lr-button", value: "", ...properties }, label);
}

/** Ask a question; returns a promise of true if the answer is yes. */
export async function ask(question, yes) {
  const dialog = h("dialog", { class: "lr-dialog", "aria-label": question },
    h("form", { method: "dialog" }, h("p", {}, question), h("div", { class: "lr-line lr-end" }, closing("Cancel"), h("button", { class: "lr-button lr-primary", value: "yes" }, yes))));
  return (await open(dialog)) === "yes";
}

/** Let the user choose a normal sentence; returns a promise of it, or of null. */
export async function choose() {
  const parts = await normalSentences().catch((error) => session.fail(error));
  if (!parts) return null;
  let answer = () => {};
  const groups = parts.map(({ anatomy, sentences }) => h("fieldset", {}, h("legend", {}, anatomy), ...sentences.map((text) =>
    h("button", { class: "lr-choose", type: "submit", onclick: () => answer(text) }, text))));
  const filter = h("input", {
    type: "search", placeholder: "Filter", "aria-label": "Filter", oninput: () => {
      for (const group of groups) {
        const buttons = [...group.querySelectorAll("button")];
        for (const one of buttons) one.hidden = !`${group.firstChild.textContent} ${one.textContent}`.toLowerCase().includes(filter.value.toLowerCase());
        group.hidden = buttons.every((one) => one.hidden);
      }
    },
    onkeydown: (event) => {
      if (event.key !== "ArrowDown" && event.key !== "Enter") return;
      event.preventDefault();
      const first = dialog.querySelector(".lr-choose:not([hidden])");
      if (event.key === "Enter") first?.click();
      else first?.focus();
    },
  });
  const dialog = h("dialog", { class: "lr-dialog lr-palette", "aria-labelledby": "palette-title" },
    h("form", { method: "dialog" }, h("div", { class: "lr-line" }, h("h2", { id: "palette-title" }, "Normal sentences"), h("span", { class: "lr-space" }), closing("Close")), filter, h("div", { class: "lr-groups" }, ...groups)));
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || isTyping(event.target)) return;
    event.preventDefault();
    const buttons = [...dialog.querySelectorAll(".lr-choose:not([hidden])")].filter((one) => !one.parentElement.hidden);
    (buttons[buttons.indexOf(document.activeElement) + step] ?? filter).focus();
  });
  const closed = open(dialog);
  filter.focus();
  return new Promise((done) => {
    answer = (text) => {
      dialog.close();
      done(text); // before the next key is read
    };
    closed.then(() => done(null));
  });
}

const GROUPS = { report: "Report", viewer: "Images", worklist: "Worklist", page: "Page" };

/** Show keys and macros, and let the user change them. */
export async function showSettings() {
  try {
    await session.loadSettings();
  } catch (error) {
    return session.fail(error);
  }
  const single = h("input", { type: "checkbox", id: "single-keys", checked: session.settings.single_keys !== false, onchange: () => session.set({ single_keys: single.checked }) });
  const body = h("tbody");
  const drawKeys = () => body.replaceChildren(...Object.entries(GROUPS).flatMap(([scope, title]) => {
    const rows = allCommands().filter((one) => one.scope === scope).map(keyRow);
    return rows.length ? [h("tr", {}, h("th", { scope: "colgroup", colSpan: 3, class: "lr-group" }, title)), ...rows] : [];
  }));
  const keyRow = ({ id, label, keys }) => {
    const input = h("input", {
      class: "lr-key", readOnly: true, value: keysOf(id).map(shown).join("  "), "aria-label": `Keys: ${label}`,
      onkeydown: (event) => {
        if (["Tab", "Escape"].includes(event.key)) return;
        event.preventDefault();
        const clear = ["Backspace", "Delete"].includes(event.key);
        const name = clear ? "" : nameOf(event);
        if (name === null) return;
        const wanted = { ...session.settings.keys, [id]: clear ? [] : [name] };
        // a key means one thing only in one part of the page
        for (const other of allCommands()) {
          if (other.id !== id && name && keysOf(other.id).includes(name)) wanted[other.id] = keysOf(other.id).filter((one) => one !== name);
        }
        session.set({ keys: wanted });
        drawKeys();
        body.querySelector(`[data-command="${id}"] input`).focus();
      },
    });
    return h("tr", { dataset: { command: id } }, h("th", { scope: "row" }, label), h("td", {}, input),
      h("td", {}, keysOf(id).join() === keys.join() ? "" : h("button", {
        type: "button", class: "lr-button lr-small", "aria-label": `Default keys: ${label}`, onclick: () => {
          const { [id]: dropped, ...rest } = session.settings.keys ?? {};
          session.set({ keys: rest });
          drawKeys();
        },
      }, `Default: ${keys.map(shown).join("  ")}`)));
  };
  drawKeys();

  const list = h("div", { class: "lr-macros" });
  const kept = (await macros()).map((one) => ({ ...one }));
  const save = () => session.set({ macros: kept.filter((one) => one.name.trim() && one.text.trim()) });
  const drawMacros = () => list.replaceChildren(...kept.map((one, at) => h("div", { class: "lr-macro" },
    h("input", { value: one.name, maxLength: 40, "aria-label": `Name of macro ${at + 1}`, placeholder: ".name", onchange: (event) => { one.name = event.target.value.trim(); save(); } }),
    h("textarea", { value: one.text, rows: Math.min(6, one.text.split("\n").length + 1), maxLength: 4000, spellcheck: true, "aria-label": `Text of macro ${at + 1}`, placeholder: "One sentence a line", onchange: (event) => { one.text = event.target.value; save(); } }),
    h("select", { "aria-label": `Section of macro ${at + 1}`, onchange: (event) => { one.section = event.target.value; save(); } },
      ...["findings", "impression"].map((section) => h("option", { value: section, selected: one.section === section }, section))),
    h("button", { type: "button", class: "lr-button lr-small", "aria-label": `Remove macro ${at + 1}`, onclick: () => { kept.splice(at, 1); save(); drawMacros(); } }, "Remove"))));
  drawMacros();
  const more = h("button", { type: "button", class: "lr-button", onclick: () => { kept.push({ name: ".", text: "", section: "findings" }); drawMacros(); list.lastElementChild.firstElementChild.focus(); } }, "Add macro");

  return open(h("dialog", { class: "lr-dialog lr-settings", id: "settings", "aria-labelledby": "settings-title" },
    h("form", { method: "dialog" },
      h("div", { class: "lr-line" }, h("h2", { id: "settings-title" }, "Keys and macros"), h("span", { class: "lr-space" }), closing("Close", { autofocus: true })),
      h("h3", {}, "Macros"), h("p", { class: "lr-quiet" }, "Type the name in a text, then Tab or Enter. Each line becomes a sentence."), list, more,
      h("h3", {}, "Keys"), h("p", {}, h("label", { for: "single-keys" }, single, " Single keys act in the list of sentences and on the image")),
      h("p", { class: "lr-quiet" }, "Press a key in a field to change it; Backspace removes it. Keys with Ctrl or Alt act anywhere on the tab, except in texts; signing and Alt+Enter there, too."),
      h("table", { class: "lr-key-table" }, body))));
}

register({ id: "settings", label: "Keys and macros", scope: "page", keys: ["Ctrl+/"], typing: true, act: () => showSettings() });
