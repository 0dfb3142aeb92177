// Keyboard commands: one table, from which the list of keys is drawn and in which the user can change every key.
//
// Single keys act only while the focus is inside the part of the page that they belong to: what dictation software
// types elsewhere decides nothing (WCAG 2.1.4). They can be switched off. Keys with Ctrl or Alt act on the whole tab.
import { isTyping } from "./dom.js";
import { session } from "./session.js";

const commands = new Map();
const SCOPES = { report: "#sentences", viewer: "#viewing", worklist: "#worklist", page: "body" };

/**
 * Add a command.
 * @param scope part of the page: "report" (the list of sentences), "viewer", "worklist" or "page"
 * @param keys names such as "a", "Shift+a", "Alt+a", "Ctrl+Enter"
 * @param act called with the event
 * @param when returns false while the command has no meaning
 * @param typing the keys with Ctrl or Alt act in a text, too
 * @param once a key that is held down acts once
 */
export function register({ id, label, scope, keys, act, when = () => true, typing = false, once = false }) {
  commands.set(id, { id, label, scope, keys, act, when, typing, once });
}

export function allCommands() {
  return [...commands.values()];
}

/** Return the keys of a command, as the user has set them. */
export function keysOf(id) {
  return session.settings.keys?.[id] ?? commands.get(id)?.keys ?? [];
}

/** Return a command's title with its first key, for tooltips. */
export function hint(id, text) {
  const [key] = keysOf(id);
  return key ? `${text} (${shown(key)})` : text;
}

export function shown(key) {
  return key.replace(/(^|\+)([a-z])$/, (whole, plus, letter) => plus + (plus ? letter.toUpperCase() : letter));
}

/** Return the name of a pressed key, such as "a", "Shift+a", "Ctrl+Enter", or null for a bare modifier. */
export function nameOf(event) {
  const { key, code } = event;
  if (["Shift", "Control", "Alt", "Meta", "AltGraph", "Dead", "Process", "Unidentified"].includes(key)) return null;
  const graph = event.getModifierState?.("AltGraph") ?? false; // types a character on many keyboards
  const [control, alt] = [(event.ctrlKey || event.metaKey) && !graph, event.altKey && !graph];
  const letter = /^[a-z]$/i.test(key);
  const digit = /^Digit(\d)$/.exec(code)?.[1];
  // with Alt, and on keyboards of other scripts, the character is another one: take the key itself
  const physical = (alt || key.codePointAt(0) > 127) && /^Key([A-Z])$/.exec(code)?.[1];
  const base = physical ? physical.toLowerCase() : letter ? key.toLowerCase() : digit && (event.shiftKey || alt) ? digit : key;
  const shift = event.shiftKey && (letter || physical || digit || key.length > 1);
  return [control && "Ctrl", alt && "Alt", shift && "Shift", base === " " ? "Space" : base].filter(Boolean).join("+");
}

const isSingle = (name) => !/^(Ctrl|Alt)\+/.test(name) && !/^(Shift\+)?F\d+$/.test(name);

function applies(command, name, target) {
  if (!keysOf(command.id).includes(name)) return false;
  const area = document.querySelector(SCOPES[command.scope]);
  if (command.scope !== "page" && !area?.offsetParent) return false; // on another tab
  if (isTyping(target) && !(command.typing && !isSingle(name))) return false;
  if (isSingle(name) && (session.settings.single_keys === false || command.scope === "page" || !area.contains(target))) return false;
  return command.when();
}

export function listen() {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]")) return;
    const name = nameOf(event);
    if (name === null) return;
    const command = allCommands().find((one) => applies(one, name, event.target));
    if (!command) return;
    event.preventDefault();
    if (!(command.once && event.repeat)) command.act(event);
  });
}
