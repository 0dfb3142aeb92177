"""Browser: a day of reading by keyboard and by mouse, while the server is killed and the line is cut.

The counts that it prints (``-s``) are those of docs/review.md; only what was lost fails the test.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from scripts.soak.serving import Client, Served, served
from tests.app.browser.test_review_page import ready
from tests.llava_rad import small_files

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = [pytest.mark.browser, pytest.mark.acceptance(row=26)]
WATCH = """
async () => {
  const { session } = await import('/ui/session.js');
  window.waits = [];
  const ends = () => document.querySelector('#sentences li')
    && JSON.parse(document.querySelector('#viewer').dataset.state || '{}').painted;
  session.steps.addEventListener('status', ({ detail }) => {
    if (detail.step.action.action !== 'sign' || !window.signedAt) return;
    const [start, study] = [window.signedAt, detail.step.study];
    const look = () => {
      if (document.body.dataset.study !== study && ends()) window.waits.push((performance.now() - start) / 1000);
      else requestAnimationFrame(look);
    };
    look();
  });
  const mark = () => { window.signedAt = performance.now(); };
  addEventListener('keydown', (event) => event.ctrlKey && event.key === 'Enter' && mark(), true);
  document.querySelector('#sign-next').addEventListener('click', mark, true);
}
"""


@dataclass
class Restarted:
    """A server that can be killed and started again at the same address."""

    folder: Path
    stack: ExitStack
    running: Served | None = None

    def start(self) -> Served:
        port = ("--port", str(self.running.port)) if self.running else ()
        self.running = self.stack.enter_context(served(self.folder, "--no-example", *port))
        return self.running

    def kill(self) -> None:
        assert self.running is not None
        self.running.kill()


@contextmanager
def restarted(folder: Path) -> Iterator[Restarted]:
    with ExitStack() as stack:
        yield Restarted(folder, stack)


@dataclass
class Reader:
    """A radiologist at the page; typed text is not counted."""

    page: Page
    keys: int = 0
    clicks: int = 0
    changes: int = 0
    expected: dict[str, str] = field(default_factory=dict)

    def press(self, *names: str) -> None:
        for name in names:
            self.page.keyboard.press(name)
        self.keys += len(names)

    def click(self, selector: str, count: int = 1) -> None:
        self.page.locator(selector).first.click(click_count=count)
        self.clicks += count

    def by_keyboard(self, change: str, number: int, text: str) -> None:
        """Change a sentence (from 1), accept the rest, sign and go on."""
        if change != "none":
            self.press(str(number))
        if change == "reject":
            self.press("x", "Shift+a", "Control+Enter")
        elif change in ("edit", "add"):
            self.press("e" if change == "edit" else "n")
            self.page.locator(".lr-editor").fill(text)
            self.press("Alt+Enter", "Control+Enter")
        else:
            self.press("Shift+a", "Control+Enter")

    def by_mouse(self, change: str, number: int, text: str) -> None:
        row = f"#sentences li.lr-sentence:nth-child({number})"
        if change == "reject":
            self.click(f"{row} .lr-text")
            self.click(f"{row} .lr-do-reject")
        elif change == "edit":
            self.click(f"{row} .lr-text", 2)
            self.page.locator(".lr-editor").fill(text)
        elif change == "add":
            self.click(f"{row} .lr-text")
            self.click("#add")
            self.page.locator(".lr-editor").fill(text)
            self.click(".lr-composing .lr-button")
        self.click("#accept-rest")
        self.click("#sign-next")

    def read(self, drafts: list[str], change: str, how: str) -> None:
        """Read the open study: the changed sentence is the second one."""
        study = str(self.page.evaluate("document.body.dataset.study"))
        text = f"Text of {study[:6]}."
        signed = {
            "none": drafts, "reject": [drafts[0], *drafts[2:]], "edit": [drafts[0], text, *drafts[2:]],
            "add": [*drafts[:2], text, *drafts[2:]],
        }[change]  # fmt: skip
        self.expected[study] = " ".join(signed)
        self.changes += change != "none"
        (self.by_keyboard if how == "keyboard" else self.by_mouse)(change, 2, text)


def prepare(client: Client, folder: Path, count: int) -> None:
    """Make studies with a lateral and a prior image, and drafts of at least three sentences."""
    for seed in range(count):
        frontal = small_files.dicom(folder / "frontal.dcm", seed=seed, PatientID=f"P{seed}").read_bytes()
        state: dict[str, Any] = client.study(frontal)
        for kind, number, view in (("lateral", 1000, "LL"), ("prior", 2000, "PA")):
            file = small_files.dicom(
                folder / f"{kind}.dcm", seed=number + seed, PatientID=f"P{seed}", ViewPosition=view
            )
            path = f"/api/studies/{state['id']}/{kind}?force=1&revision={state['revision']}"
            answer = client.call("POST", path, file.read_bytes())
            assert answer.status == 200, answer.body
            state = answer.json()
        client.drafted(state["id"])


def read_all(
    context: BrowserContext, server: Restarted, client: Client, count: int, how: str, kills: set[int], cuts: set[int]
) -> Reader:
    """Read all studies, one after the other; returns the reader with the counts."""
    page = context.new_page()
    page.set_default_timeout(120_000)
    assert server.running is not None
    ready(page, server.running.url)
    page.evaluate(WATCH)
    reader = Reader(page)
    for number in range(count):
        page.wait_for_function("document.activeElement.closest('#sentences li')")
        study = str(page.evaluate("document.body.dataset.study"))
        drafts = page.locator("#sentences li .lr-text").all_text_contents()
        if number in kills:
            server.kill()
        if number in cuts:
            context.set_offline(True)
        reader.read(drafts, ("none", "reject", "edit", "add")[number % 4], how)
        if number in kills or number in cuts:
            page.wait_for_selector("#message.lr-error")
        if number in kills:
            server.start()
        context.set_offline(False)
        page.wait_for_selector(f"body:not([data-study='{study}'])" if number < count - 1 else ".lr-signed")
    for study, text in reader.expected.items():
        found = client.call("GET", f"/api/studies/{study}").json()
        assert (found["status"], [one["text"] for one in found["signed"]]) == ("signed", [text])
    waits = page.evaluate("waits")
    many = [f"{each / count:.2f} {name}" for name, each in vars(reader).items() if isinstance(each, int)]
    print(
        f"\n{count} studies by {how}, each {', '.join(many)}; wait {np.median(waits):.2f} s, longest {max(waits):.2f} s"
    )
    return reader


@pytest.mark.parametrize("how", ["keyboard", pytest.param("mouse", marks=pytest.mark.nightly)])
@pytest.mark.parametrize(
    ("count", "kills", "cuts"),
    [
        pytest.param(4, {2}, {1}, id="short"),
        pytest.param(40, {3, 11, 18, 26, 37}, set(range(1, 40, 4)), id="day", marks=pytest.mark.nightly),
    ],
)
def test_a_day_of_reading_loses_nothing(
    browser: Browser, tmp_path: Path, how: str, count: int, kills: set[int], cuts: set[int]
) -> None:
    with restarted(tmp_path) as server:
        client = server.start().client()
        prepare(client, tmp_path, count)
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        reader = read_all(context, server, client, count, how, kills, cuts)
        context.close()
    used = reader.keys if how == "keyboard" else reader.clicks
    assert len(reader.expected) == count and used <= reader.changes + 3 * count
