// Bar at the top: title, notice, model, reviewer and messages.
import { call, h, selectTab, session } from "./session.js";

export function mount(root) {
  const model = h("span", { id: "model" });
  const user = h("span", { id: "user" });
  const file = h("input", { type: "file", id: "file", class: "lr-hidden-input", tabIndex: -1, "aria-label": "Image file" });
  const message = h("div", { id: "message", role: "status", "aria-live": "polite" });
  file.addEventListener("change", () => {
    if (file.files.length) {
      selectTab("Review");
      session.upload(file.files[0]);
    }
    file.value = "";
  });
  root.append(
    h("div", { class: "lr-bar" },
      h("h1", {}, "LLaVA-Rad review"),
      h("strong", { id: "notice" }, "AI-generated draft. Research use only. Not for clinical use."),
      h("span", { class: "lr-space" }), model, user,
      h("button", { id: "open", class: "lr-button lr-primary", title: "Open a radiograph: DICOM, PNG, JPEG, TIFF, WebP", onclick: () => file.click() }, "Open image …"),
      file),
    message);

  session.addEventListener("me", () => {
    const { me } = session;
    const { state, id, revision, sha256, demonstration } = me.model;
    message.classList.toggle("lr-error", state === "failed");
    if (state === "failed") message.textContent = `The model cannot be loaded: ${me.model.error}`;
    model.textContent = state === "ready" ? `${id}${revision ? ` @ ${revision}` : ""}` : state === "loading" ? "model is loading …" : "no model";
    model.title = sha256 ? `Model, SHA-256 ${sha256}` : "";
    if (demonstration) model.append(h("em", { title: "Its findings are not reliable" }, "demonstration"));
    user.replaceChildren(h("span", { title: "Reviewer" }, me.named_users ? me.user : "local user"));
    if (me.named_users) user.append(h("form", { method: "post", action: "/logout" }, h("button", { class: "lr-button" }, "Log out")));
  });
  session.addEventListener("message", ({ detail }) => {
    message.textContent = detail.text;
    message.classList.toggle("lr-error", detail.kind === "error");
    message.classList.toggle("lr-busy", detail.kind === "busy");
  });
  session.addEventListener("study", ({ detail }) => {
    if (detail.other && session.study) session.say("");
  });
  for (const kind of ["dragover", "drop"]) {
    addEventListener(kind, (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      const [dropped] = event.dataTransfer.files;
      if (kind === "drop" && dropped) {
        selectTab("Review");
        session.upload(dropped);
      }
    });
  }
  // a page restored from the browser's cache may belong to a user who has logged out
  addEventListener("pageshow", (event) => event.persisted && location.reload());
  session.start().catch((error) => session.fail(error));
  // after a long absence the study may have changed elsewhere, or the session may have expired
  document.addEventListener("visibilitychange", async () => {
    if (document.visibilityState !== "visible" || !session.study) return;
    const known = session.study;
    const now = await call("GET", `/api/studies/${known.id}`).catch(() => null);
    if (now && session.study?.id === now.id && now.revision !== session.study.revision) session.open(now.id);
  });
}
