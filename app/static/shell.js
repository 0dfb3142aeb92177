// The page: bar, warnings, and one panel for each tab. The review has the images, a divider and the report.
import { place } from "./address.js";
import { h } from "./dom.js";
import { listen } from "./keys.js";
import { mount as mountReport } from "./report.js";
import { session } from "./session.js";
import { mount as mountStatistics } from "./statistics.js";
import { createBar, createMessage, createStrip, listenForFiles } from "./top.js";
import { mount as mountViewing } from "./viewing.js";
import { mount as mountWorklist } from "./worklist.js";

const TABS = { review: "Review", worklist: "Worklist", statistics: "Statistics" };
const THEME = "llava-rad.theme";

export function mount(root) {
  const tabs = Object.entries(TABS).map(([name, title]) => h("button", {
    role: "tab", id: `tab-${name}`, "aria-controls": `panel-${name}`, onclick: () => show(name), onkeydown: (event) => step(event, name),
  }, title));
  const parts = { viewing: h("div", { id: "viewing", class: "lr" }), report: h("div", { id: "report", class: "lr" }), worklist: h("div", { id: "worklist", class: "lr" }), statistics: h("div", { id: "statistics", class: "lr" }) };
  const divider = h("div", { id: "divider", role: "separator", tabIndex: 0, "aria-label": "Width of the report" });
  const panels = Object.fromEntries(Object.keys(TABS).map((name) => [name, h("div", { role: "tabpanel", id: `panel-${name}`, "aria-labelledby": `tab-${name}` })]));
  panels.review.append(parts.viewing, divider, parts.report);
  panels.worklist.append(parts.worklist);
  panels.statistics.append(parts.statistics);
  root.append(createBar(h("div", { id: "tabs", role: "tablist", "aria-label": "Parts of the page" }, ...tabs), themeSwitch()), createStrip(), createMessage(), ...Object.values(panels));

  let current = null;
  function show(name, quiet = false) {
    if (name === current) return;
    current = name;
    for (const tab of tabs) {
      const chosen = tab.id === `tab-${name}`;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
    }
    for (const [each, panel] of Object.entries(panels)) panel.hidden = each !== name;
    document.body.dataset.tab = name;
    if (!quiet) place(name === "review" ? session.study?.id ?? "" : name);
  }

  /** Move between the tabs by arrow keys. */
  function step(event, name) {
    const names = Object.keys(TABS);
    const at = { ArrowRight: names.indexOf(name) + 1, ArrowLeft: names.indexOf(name) - 1, Home: 0, End: names.length - 1 }[event.key];
    if (at === undefined) return;
    event.preventDefault();
    const to = (at + names.length) % names.length;
    show(names[to]);
    tabs[to].focus();
  }

  show("review", true);
  divide(divider, panels.review);
  session.addEventListener("tab", ({ detail }) => show(detail));
  mountViewing(parts.viewing);
  mountReport(parts.report);
  mountWorklist(parts.worklist);
  mountStatistics(parts.statistics);
  listen();
  listenForFiles();
  session.start().catch((error) => session.fail(error));
}

/** Create the switch between dark and light; dark is the default, as in a reading room. */
function themeSwitch() {
  const asked = new URLSearchParams(location.search).get("__theme");
  const button = h("button", { id: "theme", class: "lr-button", onclick: () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    apply(theme);
    session.set({ theme });
  } });
  const apply = (theme) => {
    document.documentElement.dataset.theme = theme;
    button.textContent = theme === "dark" ? "Light" : "Dark";
    button.title = theme === "dark" ? "Light colours" : "Dark colours";
    localStorage.setItem(THEME, theme);
  };
  apply(["light", "dark"].includes(asked) ? asked : localStorage.getItem(THEME) ?? "dark");
  session.addEventListener("settings", () => {
    if (!asked && ["light", "dark"].includes(session.settings.theme)) apply(session.settings.theme);
  });
  return button;
}

/** Let the divider between images and report be moved by pointer and arrow keys; each screen keeps its own places. */
function divide(divider, panel) {
  const stacked = matchMedia("(max-width: 37.49rem), (max-aspect-ratio: 1/1)");
  const name = () => (stacked.matches ? "stacked" : document.body.dataset.pair ? "pair" : "single");
  const defaults = { stacked: 55, pair: 28, single: 36 }; // share of the report in percent
  const key = (which) => `llava-rad.divider.${which}`;
  const share = () => Number(localStorage.getItem(key(name()))) || defaults[name()];

  function place(percent) {
    const value = Math.min(Math.max(Math.round(percent), 15), 75);
    localStorage.setItem(key(name()), String(value));
    draw();
  }
  function draw() {
    divider.setAttribute("aria-orientation", stacked.matches ? "horizontal" : "vertical");
    divider.setAttribute("aria-label", stacked.matches ? "Height of the report" : "Width of the report");
    for (const [which, value] of [["now", share()], ["min", 15], ["max", 75]]) divider.setAttribute(`aria-value${which}`, String(value));
    panel.style.setProperty("--lr-report", `${share()}%`);
  }
  divider.addEventListener("pointerdown", (event) => {
    divider.setPointerCapture(event.pointerId);
    event.preventDefault();
    divider.focus();
  });
  divider.addEventListener("pointermove", (event) => {
    if (!divider.hasPointerCapture(event.pointerId)) return;
    const box = panel.getBoundingClientRect();
    place(stacked.matches ? (100 * (box.bottom - event.clientY)) / box.height : (100 * (box.right - event.clientX)) / box.width);
  });
  divider.addEventListener("dblclick", () => {
    localStorage.removeItem(key(name()));
    draw();
  });
  divider.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: 2, ArrowUp: 2, ArrowRight: -2, ArrowDown: -2 }[event.key];
    if (!by) return;
    event.preventDefault();
    place(share() + by);
  });
  stacked.addEventListener("change", draw);
  new MutationObserver(draw).observe(document.body, { attributes: true, attributeFilter: ["data-pair"] });
  draw();
}
