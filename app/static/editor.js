// Text box for one sentence: every keystroke is kept in the browser until the server has the text; macros expand.
import { h } from "./dom.js";
import { macroAt, macros, suggested } from "./macros.js";
import { identifier } from "./steps.js";
import { unsent } from "./unsent.js";

/**
 * Create a text box.
 * @param value text at the beginning
 * @param saved text that the server has
 * @param entry of the kept text: study, kind and what it belongs to
 * @param finish called once with (how, text, id of the kept text): "done" (Enter), "left" (focus lost), "given up" (Esc)
 * @param stays the box stays open when it loses the focus
 */
export function textBox({ value, saved = value, label, entry, finish, stays = false, properties = {} }) {
  const id = identifier();
  const hint = h("span", { class: "lr-hint" });
  let over = false;
  let list = [];
  macros().then((found) => {
    list = found;
  });

  const end = (how) => {
    if (over) return;
    over = true;
    removeEventListener("pagehide", leave);
    const text = area.value.trim();
    if (how === "given up" || !text || text === saved) unsent.drop(id);
    finish(how, text, id);
  };
  const leave = () => end("left");
  const keep = () => {
    if (area.value.trim() && area.value.trim() !== saved) unsent.keep(id, { ...entry, text: area.value });
    else unsent.drop(id);
  };
  const grow = () => {
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight + 2}px`;
  };
  const changed = () => {
    keep();
    grow();
    const found = suggested(list, area.value.slice(0, area.selectionStart));
    hint.textContent = found.length ? `Tab: ${found.slice(0, 3).map((one) => one.name).join(" · ")}` : "";
  };
  /** Replace a macro's name before the cursor by its text; returns null if there is no room for it. */
  const expand = (complete) => {
    const before = area.value.slice(0, area.selectionStart);
    const [only, ...more] = complete ? suggested(list, before) : [];
    const macro = macroAt(list, before) ?? (only && !more.length ? only : null);
    if (!macro) return false;
    const typed = macroAt(list, before) ? macro.name : /(?:^|\s)(\.[^.]*)$/.exec(before)[1];
    if (area.value.length - typed.length + macro.text.length > area.maxLength) {
      hint.textContent = `${macro.name} does not fit: a text holds at most ${area.maxLength.toLocaleString("en")} characters`;
      return null;
    }
    area.setRangeText(macro.text, before.length - typed.length, before.length, "end");
    changed();
    return true;
  };
  const area = h("textarea", {
    class: "lr-editor", rows: 1, maxLength: 4000, value, spellcheck: true, lang: "en", "aria-label": label, ...properties,
    oninput: changed,
    onblur: () => {
      if (!stays) leave();
    },
    onkeydown: (event) => {
      if (event.isComposing) return;
      if (event.key === "Tab" && !event.shiftKey && expand(true) !== false) event.preventDefault();
      else if (event.key === "Enter" && !event.shiftKey && !event.ctrlKey && !event.metaKey && !event.altKey) {
        event.preventDefault();
        if (expand(false) !== null) end("done");
      } else if (event.key === "Escape") {
        event.stopPropagation();
        end("given up");
      }
    },
  });
  addEventListener("pagehide", leave);
  if (value !== saved) keep();
  requestAnimationFrame(grow);
  return { area, id, element: h("div", { class: "lr-writing" }, area, hint), end };
}
