// Statistics of reviews: decisions on drafted sentences, edit distance, label changes, errors and working time.
import { call, h, session } from "./session.js";

const percent = (share) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(0)} %`);
const seconds = (value) => (value === null || value === undefined ? "–" : value < 90 ? `${Math.round(value)} s` : `${(value / 60).toFixed(1)} min`);

function shortened(model) {
  const [id, sha256 = ""] = model.split("@");
  return `${id} ${sha256.slice(0, 12)}`;
}

export function mount(root) {
  const content = h("div", { class: "lr-statistics" });
  root.append(h("div", { class: "lr-line" }, h("h2", {}, "Review statistics"), h("span", { class: "lr-space" }), h("button", { class: "lr-button", onclick: () => refresh() }, "Refresh")), content);

  async function refresh() {
    const found = await call("GET", "/api/statistics").catch((error) => session.fail(error));
    if (found) draw(found);
  }

  function tile(title, value, more = "") {
    return h("div", { class: "lr-tile" }, h("div", { class: "lr-quiet" }, title), h("div", { class: "lr-number" }, value), h("div", { class: "lr-quiet" }, more));
  }

  function bars(title, rows, shown = String) {
    const most = Math.max(...rows.map(([, value]) => value), 1e-9);
    return h("figure", {}, h("figcaption", {}, title), h("table", { class: "lr-bars" }, h("tbody", {}, ...rows.map(([name, value, kind]) =>
      h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, h("span", { class: `lr-bar-fill lr-is-${kind ?? "plain"}`, style: `width:${(100 * value) / most}%` })), h("td", {}, shown(value)))))));
  }

  /** Table of the errors that reviewers named: categories down, clinical significance across. */
  function errors({ total, categories, significance, both }) {
    const titles = Object.fromEntries(Object.values(session.me?.errors ?? {}).flat().map((one) => [one.value, one.title]));
    const across = Object.keys(significance);
    const cell = (count) => h("td", {}, count ? String(count) : "–");
    return h("table", { id: "errors" }, h("caption", {}, `Errors in drafts, as named by reviewers: ${total}`),
      h("thead", {}, h("tr", {}, ...["Error", ...across.map((one) => titles[one] ?? one), "all"].map((title) => h("th", { scope: "col" }, title)))),
      h("tbody", {}, ...Object.entries(categories).filter(([, count]) => count).map(([category, count]) =>
        h("tr", { dataset: { category } }, h("th", { scope: "row" }, titles[category] ?? category),
          ...across.map((rated) => cell(both.find((one) => one.category === category && one.significance === rated)?.count)), cell(count)))));
  }

  function draw(found) {
    const { shares, edit_distance: distance, seconds: time } = found;
    content.replaceChildren(
      h("div", { class: "lr-tiles" },
        tile("Signed reports", String(found.signed), Object.entries(found.studies).map(([name, count]) => `${count} ${name}`).join(", ")),
        tile("Sentences accepted as drafted", percent(shares.accepted), `${found.sentences} drafted sentences in signed reports`),
        tile("Characters changed", percent(distance.mean), "edit distance from the draft to the signed text, mean"),
        tile("Active time for a report", seconds(time.median), time.low === null ? "" : `middle half ${seconds(time.low)} to ${seconds(time.high)}`)),
      found.signed ? h("div", { class: "lr-figures" },
        bars("What became of the drafted sentences", ["accepted", "edited", "rejected"].map((one) => [one, shares[one] ?? 0, one]), percent),
        bars("Signed reports by day", Object.entries(found.days)),
        found.labels.length ? bars("Findings that reviewers changed most", found.labels.map((one) => [`${one.finding} (${one.from} to ${one.to})`, one.count])) : "",
        found.errors.total ? h("div", { class: "lr-wide", tabIndex: 0, role: "region", "aria-label": "Errors in drafts" }, errors(found.errors)) : "",
        h("table", { class: "lr-wide" }, h("caption", {}, "By model"), h("thead", {}, h("tr", {}, ...["Model", "Reports", "Accepted", "Changed", "Time"].map((title) => h("th", { scope: "col" }, title)))),
          h("tbody", {}, ...found.models.map((one) => h("tr", {}, h("th", { scope: "row", title: one.model }, shortened(one.model)), h("td", {}, String(one.signed)), h("td", {}, percent(one.shares.accepted)), h("td", {}, percent(one.edit_distance.mean)), h("td", {}, seconds(one.seconds.median))))))) : h("p", { class: "lr-quiet" }, "Numbers appear when reports have been signed."));
  }

  session.addEventListener("worklist", () => root.offsetParent && refresh());
  new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && refresh()).observe(root);
}
