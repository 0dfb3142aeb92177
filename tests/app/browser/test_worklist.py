"""Browser: the worklist on a bare page, with answers made by tests: updates, keys, filters, order and batches."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.app.browser.viewer_page import Images

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page, Route

pytestmark = [pytest.mark.browser, pytest.mark.acceptance(row=26)]
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Worklist</title><link rel="icon" href="data:,">
<link rel="stylesheet" href="/ui/shell.css"><link rel="stylesheet" href="/ui/worklist.css">
<main id="worklist" class="lr" style="height: 600px; overflow: auto"></main>
<script type="module">import { session } from "/ui/session.js";
import { mount } from "/ui/worklist.js";
session.me = await (await fetch("/api/me")).json();
session.settings = await (await fetch("/api/settings")).json();
session.set ??= async (part) => {
  Object.assign(session.settings, part);
  await fetch("/api/settings", { method: "PUT", body: JSON.stringify(session.settings) });
};
session.open = (id) => { window.opened = id; };
session.addEventListener("message", ({ detail }) => { window.said = detail.text; });
window.session = session;
mount(document.getElementById("worklist"));</script></html>"""
SHOWN = "Array.from(document.querySelectorAll('#studies tbody tr'), one => one.dataset.study)"


@dataclass
class Answers:
    """Answers of the server, and the requests that it got."""

    studies: list[dict[str, Any]] = field(default_factory=list)
    batches: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    user: str | None = None
    queries: list[dict[str, str]] = field(default_factory=list)
    sent: list[tuple[str, str, dict[str, str], Any]] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)
    """Statuses that uploads are answered with first."""

    def answer(self, route: Route) -> None:
        request = route.request
        path, query = urlsplit(request.url).path, parse_qs(urlsplit(request.url).query)
        if path == "/":
            route.fulfill(content_type="text/html", body=PAGE)
        elif not path.startswith("/api/"):
            route.fallback()
        elif request.method != "GET":
            if path.startswith("/api/studies") and self.failures:
                route.fulfill(status=self.failures.pop(0), json={"error": "no room"})
                return
            self.sent.append((request.method, request.url.split("/", 3)[3], request.headers, request.post_data))
            if path == "/api/settings":
                self.settings = json.loads(request.post_data or "{}")
            route.fulfill(json={"batch": "b" * 32})
        elif path == "/api/studies":
            self.queries.append({name: values[0] for name, values in query.items()})
            counts: dict[str, int] = {}
            for one in self.studies:
                counts[one["status"]] = counts.get(one["status"], 0) + 1
            route.fulfill(json={"studies": self.studies, "counts": counts, "total": len(self.studies)})
        else:
            user = {
                "user": self.user or "local",
                "named_users": self.user is not None,
                "users": ["ann", "bob"],
                "model": {"state": "ready"},
            }
            found = {"/api/batches": self.batches, "/api/settings": self.settings, "/api/me": user}
            route.fulfill(json=found.get(path, {}))


def study(name: str, **more: Any) -> dict[str, Any]:
    """A row of the worklist."""
    return {
        "id": name * 32, "name": f"Radiograph {name}", "status": "draft", "version": 1, "view": "PA", "images": 1,
        "undecided": 3, "sentences": 6, "warnings": 0, "notices": 0, "findings": [], "assigned": None, "draft": "done",
        "created": "2026-11-01T08:00:00Z", "changed": "2026-11-01T09:00:00Z", "thumbnail": None,
    } | more  # fmt: skip


@pytest.fixture
def server(browser_page: Page, images: Images) -> Answers:
    answers = Answers([study(name) for name in "abcdef"])
    browser_page.route("**/*", answers.answer)
    return answers


def opened(page: Page, images: Images) -> Page:
    page.goto(images.url)
    page.wait_for_selector("#studies tbody tr")
    return page


def update(page: Page) -> None:
    """Have the page update its list in the background, and wait until it has."""
    page.evaluate("session.dispatchEvent(new CustomEvent('worklist'))")
    with page.expect_response(lambda answer: "/api/studies?" in answer.url):
        pass
    page.evaluate("new Promise(done => setTimeout(done, 50))")


def rows(page: Page) -> str:
    return "".join(one[0] for one in page.evaluate(SHOWN))


def test_an_update_in_the_background_keeps_rows_focus_and_scroll_position(
    browser_page: Page, images: Images, server: Answers
) -> None:
    server.studies = [study(f"{number:02}") for number in range(40)]
    page = opened(browser_page, images)
    page.locator("#studies tbody tr").nth(20).locator("th button").focus()
    page.evaluate("document.querySelectorAll('#studies tbody tr').forEach(one => { one.mark = true; })")
    before = page.evaluate(SHOWN)
    top = "document.activeElement.getBoundingClientRect().top"
    place = page.evaluate(top)
    assert page.evaluate("document.getElementById('worklist').scrollTop") > 0
    # the order changes, one is signed elsewhere, one is new, one no longer belongs to the list
    server.studies = [study("nn"), *[study(f"{number:02}") for number in reversed(range(1, 40))]]
    server.studies[-20] = study("20", status="signed", undecided=0)
    update(page)
    after = page.evaluate(SHOWN)
    assert after == [*before, "nn" * 32], "nothing moves, new ones come last"
    assert page.evaluate("document.activeElement.closest('tr').dataset.study") == "20" * 32
    assert page.evaluate(top) == place
    marked = "Array.from(document.querySelectorAll('#studies tbody tr')).filter(one => one.mark).length"
    assert page.evaluate(marked) == 40
    assert "signed" in (page.locator("#studies tbody tr").nth(20).text_content() or "")
    assert page.locator("tr.lr-left").count() == 1
    page.click("#worklist-news")
    page.wait_for_function("document.querySelectorAll('#studies tbody tr.lr-left').length === 0")
    assert page.evaluate(SHOWN) == [one["id"] for one in server.studies]
    assert page.is_hidden("#worklist-news")


def test_a_new_order_keeps_the_focused_row_focused(browser_page: Page, images: Images, server: Answers) -> None:
    page = opened(browser_page, images)
    page.locator("tr[data-study^=c] th button").focus()
    server.studies = [study(name) for name in "fcabed"]
    page.evaluate("document.querySelector('[data-sort=name] button').click()")
    page.wait_for_function(f"{SHOWN}.map(one => one[0]).join('') === 'fcabed'")
    assert page.evaluate("document.activeElement.closest('tr')?.dataset.study") == "c" * 32
    page.wait_for_timeout(50)
    assert rows(page) == "fcabed"


def test_opened_parts_of_a_batch_stay_open_while_it_is_read(
    browser_page: Page, images: Images, server: Answers
) -> None:
    refused = [{"number": 2, "sha256": "ab" * 32, "reason": "no DICOM file"}]
    batch = {"id": "x", "total": 9, "read": 3, "drafted": 1, "waiting": 2, "failed": refused}
    other = {"id": "y", "total": 4, "read": 4, "drafted": 1, "waiting": 3, "failed": []}
    server.batches = [other, batch]
    page = opened(browser_page, images)
    page.click("#batches summary:visible")
    refused = [*refused, {"number": 7, "sha256": None, "reason": "too large"}]
    server.batches = [other, batch | {"read": 5, "drafted": 4, "failed": refused}]
    page.wait_for_selector("#batches >> text=2 refused")
    assert page.locator("#batches details[open] li").all_text_contents() == [
        "file 2 (sha256 abababababab): no DICOM file",
        "file 7: too large",
    ]
    place = page.locator("#studies").bounding_box()
    server.batches = [other | {"drafted": 4, "waiting": 0}, *server.batches[1:]]
    page.wait_for_selector("#batches >> text=4 read, 4 drafted")
    assert page.locator("#studies").bounding_box() == place, "a batch that has ended is not taken from above the rows"
    page.click("[data-status=draft]")
    page.wait_for_selector("#batches >> text=4 read, 4 drafted", state="detached")


def test_the_list_by_keyboard_alone(browser_page: Page, images: Images, server: Answers) -> None:
    page = opened(browser_page, images)
    assert page.locator("tbody th button[tabindex='0']").count() == 1, "one Tab stop for all rows"
    page.locator("tbody th button[tabindex='0']").focus()
    for key, expected in (("ArrowDown", "b"), ("End", "f"), ("ArrowDown", "f"), ("PageUp", "a"), ("ArrowDown", "b")):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.closest('tr').dataset.study[0]") == expected
    page.keyboard.press("Enter")
    assert page.evaluate("window.opened") == "b" * 32


@pytest.mark.acceptance(row=25)
@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.nightly)])
def test_no_accessibility_violation_in_any_state_of_the_list(
    browser_page: Page, images: Images, server: Answers, theme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    server.user = "ann"
    server.studies = [
        study("a", notices=2, findings=["Edema"], assigned="bob"),
        study("b", status="signed"),
        study("c"),
    ]
    refused = [{"number": 2, "sha256": None, "reason": "no DICOM file"}]
    server.batches = [{"id": "x", "total": 2, "read": 1, "drafted": 1, "waiting": 0, "failed": refused}]
    server.settings = {"filters": [{"name": "Mine", "query": {"mine": "1"}}]}
    page = opened(browser_page, images)
    page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
    page.add_style_tag(content="#worklist { background: var(--lr-panel) }")
    found: dict[str, list[Any]] = {}

    def check(screen: str) -> None:
        options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
        violations = Axe().run(page, options=options).response["violations"]
        if violations:
            found[screen] = [(one["id"], [node["target"] for node in one["nodes"]]) for one in violations]

    check("list")
    page.click("#batches summary:visible")
    page.click("summary:has-text('Export')")
    check("menu")
    page.click("[data-status=draft]")
    assert page.is_hidden("#export-csv"), "a menu closes when it is left"
    page.click("#save-filter")
    check("opened")
    page.locator("tbody tr").nth(1).locator("th button").focus()
    server.studies = [study("d"), *server.studies]
    update(page)
    check("updated")
    page.set_viewport_size({"width": 390, "height": 844})
    page.evaluate("document.getElementById('worklist').scrollTo(0, 0)")
    check("small")
    assert found == {}
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_headers_order_the_list_and_say_so(browser_page: Page, images: Images, server: Answers) -> None:
    page = opened(browser_page, images)
    assert server.queries == [{"sort": "changed", "descending": "1", "limit": "100", "offset": "0"}]
    sort = (
        "Array.from(document.querySelectorAll('[aria-sort]'), one => [one.dataset.sort, one.getAttribute('aria-sort')])"
    )
    assert page.evaluate(sort) == [["changed", "descending"]]
    for name, order in (("name", "ascending"), ("name", "descending"), ("notices", "descending")):
        with page.expect_response(lambda answer: "/api/studies?" in answer.url):
            page.click(f"[data-sort={name}] button")
        page.wait_for_function(f"{sort}.toString() === '{name},{order}'")
        assert (server.queries[-1]["sort"], server.queries[-1]["descending"]) == (name, str(int(order == "descending")))
    assert page.evaluate("session.list") == {"sort": "notices", "descending": "1"}, "the next study follows this order"


def test_findings_warnings_and_age_of_a_study_are_shown(browser_page: Page, images: Images, server: Answers) -> None:
    browser_page.clock.set_fixed_time("2026-11-03T10:30:00Z")
    findings = ["Pleural Effusion", "Edema"]
    server.studies = [
        study("a", notices=2, findings=findings, images=3, version=2),
        study("b", created="2026-11-03T10:29:50Z", draft="running", sentences=0, status="pending"),
        study("c", created="2026-11-03T07:00:00Z", status="signed", undecided=0),
    ]
    page = opened(browser_page, images)
    texts = [" ".join(text.split()) for text in page.locator("tbody tr").all_inner_texts()]
    assert all(part in texts[0] for part in ("PA, 3 images", "version 2", "Pleural Effusion", "⚠ 2", "3 of 6", "2 d"))
    assert "being drafted" in texts[1] and "now" in texts[1]
    assert "3 h" in texts[2] and " of " not in texts[2]
    page.click("text=Edema")
    page.wait_for_selector("#finding-filter:has-text('finding: Edema')")
    assert server.queries[-1]["finding"] == "Edema"
    page.click("#finding-filter")
    page.wait_for_selector("#finding-filter", state="hidden")
    assert "finding" not in server.queries[-1]


def test_filters_are_saved_by_name_and_used_again(browser_page: Page, images: Images, server: Answers) -> None:
    page = opened(browser_page, images)
    assert page.is_hidden("#save-filter"), "nothing to save: the default"
    page.click("[data-status=draft]")
    page.fill("#search", "edema")
    page.wait_for_selector("#save-filter:visible")
    theirs = {"name": "theirs", "query": {"status": "signed"}}
    server.settings = {"filters": [theirs]}  # saved in another window
    page.route("**/api/settings", lambda route: route.abort(), times=1)
    page.click("#save-filter")
    page.keyboard.type("Open edemas")
    page.keyboard.press("Enter")
    page.wait_for_function("window.said?.includes('cannot be reached')")
    assert server.settings == {"filters": [theirs]}, "a list that could not be loaded is not replaced"
    page.keyboard.press("Enter")
    chip = page.get_by_role("button", name="Open edemas", exact=True)
    chip.wait_for()
    assert [one["name"] for one in server.settings["filters"]] == ["theirs", "Open edemas"] and page.is_hidden(
        "#save-filter"
    )
    chip.click()  # pressed again: all studies
    page.wait_for_function("document.getElementById('search').value === ''")
    assert "status" not in server.queries[-1]
    page.reload()
    page.get_by_role("button", name="Open edemas", exact=True).click()
    page.wait_for_function("document.getElementById('search').value === 'edema'")
    assert (server.queries[-1]["status"], server.queries[-1]["search"]) == ("draft", "edema")
    page.get_by_role("button", name="Delete the filter Open edemas").click()
    chip.wait_for(state="detached")
    assert server.settings["filters"] == [theirs]


def test_a_study_is_assigned_and_given_back(browser_page: Page, images: Images, server: Answers) -> None:
    server.user = "ann"
    server.studies = [study("a"), study("b", assigned="ann"), study("c", assigned="gone")]
    page = opened(browser_page, images)
    choices = page.locator("td.lr-col-assigned select")
    assert [choice.input_value() for choice in choices.all()] == ["", "ann", "gone"]
    assert choices.nth(0).locator("option").all_text_contents() == ["nobody", "ann", "bob"]
    for number, name in ((1, ""), (0, "bob")):
        with page.expect_response(lambda answer: "/assign" in answer.url):
            choices.nth(number).select_option(name)
    bodies = [(path, json.loads(body)) for _, path, _, body in server.sent]
    assert bodies == [
        (f"api/studies/{'b' * 32}/assign", {"user": None}),
        (f"api/studies/{'a' * 32}/assign", {"user": "bob"}),
    ]
    with page.expect_response(lambda answer: "mine=1" in answer.url):
        page.click("#mine")


def test_files_and_zips_become_batches(browser_page: Page, images: Images, server: Answers, tmp_path: Path) -> None:
    page = opened(browser_page, images)
    names = {"1.dcm": b"one", "2.dcm": b"two", ".hidden": b"x", "DICOMDIR": b"x", "empty.dcm": b"", "all.ZIP": b"zip"}
    for name, content in names.items():
        (tmp_path / name).write_bytes(content)
    server.failures = [503, 502]  # no room at the moment, a proxy: the file is sent again
    page.set_input_files("#files", [tmp_path / name for name in names])
    page.wait_for_function("window.said?.includes('2 files have been sent; 3')")
    assert [(path, body) for _, path, _, body in server.sent] == [
        ("api/batches", "zip"),
        ("api/batches", '{"total":2}'),
        (f"api/studies?batch={'b' * 32}&number=1", "one"),
        (f"api/studies?batch={'b' * 32}&number=2", "two"),
    ]
    assert server.sent[0][2]["content-type"] == "application/zip"
    assert not any("x-file-name" in headers for _, _, headers, _ in server.sent), "file names may identify a patient"


def test_no_name_of_a_folder_is_sent(browser_page: Page, images: Images, server: Answers, tmp_path: Path) -> None:
    page = opened(browser_page, images)
    (tmp_path / "films" / "Doe^John").mkdir(parents=True)
    (tmp_path / "films" / "Doe^John" / "Doe.dcm").write_bytes(b"x")
    page.set_input_files("#folder", tmp_path / "films")
    page.wait_for_function("window.said === ''")
    assert [path for _, path, _, _ in server.sent if "number=1" in path]
    assert "Doe" not in json.dumps([(path, headers) for _, path, headers, _ in server.sent])
