// Macros: a short name, such as ".normal chest", that stands for one or several sentences.
import { call } from "./calls.js";
import { session } from "./session.js";

let palette = null; // promise of [{anatomy, sentences}]

/** Return the normal sentences by anatomy. */
export function normalSentences() {
  palette ??= call("GET", "/api/palette").catch((error) => {
    palette = null;
    throw error;
  });
  return palette;
}

/** Return the user's macros, {name, text, section}; one sentence a line. At first there is one, made of the palette. */
export async function macros() {
  if (session.settings.macros) return session.settings.macros;
  const parts = await normalSentences().catch(() => []);
  return [{ name: ".normal chest", text: parts.map((one) => one.sentences[0]).join("\n"), section: "findings" }];
}

/** Return the macro whose name ends a text, the longest if there are several. */
export function macroAt(list, text) {
  const lower = text.toLowerCase();
  return list.filter(({ name }) => name && lower.endsWith(name.toLowerCase()) && /(^|\s)$/.test(lower.slice(0, -name.length)))
    .toSorted((one, other) => other.name.length - one.name.length)[0] ?? null;
}

/** Return macros whose names a text has begun, for the line under the editor. */
export function suggested(list, text) {
  const begun = /(?:^|\s)(\.[^.]*)$/.exec(text.toLowerCase())?.[1];
  return begun ? list.filter(({ name }) => name.toLowerCase().startsWith(begun)) : [];
}

/** Return the sentences of a text that may have several lines. */
export function lines(text) {
  return text.split("\n").map((line) => line.trim().replace(/\s+/g, " ")).filter(Boolean);
}
