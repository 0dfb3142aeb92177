// What follows the report: signed versions, exports, and closing a study without a report.
import { h, session } from "./session.js";

export function createEnding() {
  const signed = h("div", { id: "signed" });
  const text = h("a", { id: "export-text", class: "lr-button", download: "" }, "Text");
  const json = h("a", { id: "export-json", class: "lr-button", download: "" }, "JSON");
  const documents = h("span", { id: "export-documents", class: "lr-line" });
  const title = h("span", { class: "lr-quiet" }, "Export");
  const discard = h("button", { id: "discard", class: "lr-button", title: "Close this study without a report", onclick: () => session.act({ action: "discard" }) }, "Discard");
  const line = h("div", { class: "lr-line", id: "ending" }, title, text, json, documents, h("span", { class: "lr-space" }), discard);
  const element = h("div", {}, signed, line);

  function show(editable) {
    const { study } = session;
    line.hidden = !study;
    discard.hidden = !editable;
    text.hidden = json.hidden = title.hidden = !study?.sentences.length;
    if (!documents.children.length) {
      documents.append(...(session.me?.exports ?? []).map(({ name, title: full, file }) =>
        h("a", { id: `export-${name}`, class: "lr-button", download: "", title: full, "data-file": file }, name.toUpperCase())));
    }
    documents.hidden = !(study?.draft?.report || study?.draft?.model?.table);
    if (study) {
      text.href = `/api/studies/${study.id}/report.txt`;
      json.href = `/api/studies/${study.id}/report.json`;
      for (const link of documents.children) link.href = `/api/studies/${study.id}/${link.dataset.file}`;
    }
    signed.replaceChildren(...(study?.signed ?? []).toReversed().map((one) => h("section", { class: "lr-signed" },
      h("h3", {}, `Signed, version ${one.version}`), h("p", {}, one.text), h("p", { class: "lr-quiet" }, `by ${one.by}, ${new Date(one.at).toLocaleString()}`))));
  }
  return { element, show };
}
