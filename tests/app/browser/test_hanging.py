"""Browser: the images of a study in the application: hanging, prior's report, maps, measurements, first picture."""

from __future__ import annotations

import base64
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydicom.uid import generate_uid

from llava_rad.generation.sources import example
from scripts.soak.serving import Served, served
from tests.app.browser.test_review_page import drafted, painted, ready, state_of, upload
from tests.llava_rad import small_files

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.acceptance(row=26)]
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
BYTES_IN_A_SECOND = 10_000_000 // 8
"""Of a line of 10 Mbit/s."""


@dataclass
class Made:
    """A server, and studies of one patient on it: an earlier signed one, and one with lateral and a further image."""

    server: Served
    earlier: str
    current: str


def film(path: Path, seed: int, patient: str, study: str, **more: Any) -> Path:
    """Write an image with the identifiers of a patient's study."""
    uids = {"StudyInstanceUID": generate_uid(entropy_srcs=["hanging", study]), "SeriesInstanceUID": generate_uid()}
    return small_files.dicom(path, seed=seed, PatientID=patient, ImagerPixelSpacing=[2.0, 2.0], **uids, **more)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("hanging")
    with served(folder, "--no-example") as running:
        client = running.client()

        def file(number: int, study: str, date: str, **more: Any) -> bytes:
            return film(folder / f"{number}.dcm", number, "4711", study, StudyDate=date, **more).read_bytes()

        earlier = client.study(file(1, "earlier", "20250301"))
        earlier = client.act(earlier, "add", text="No change in the small left effusion.", after=None).json()
        assert client.act(earlier, "sign").status == 200
        current = client.study(file(2, "current", "20260301"))
        for number, view in ((3, "LL"), (4, "AP")):
            state = client.study(file(number, "current", "20260301", ViewPosition=view))
            assert state["id"] == current["id"] and state["joined"]
        client.drafted(current["id"])
        yield Made(running, earlier["id"], current["id"])


@pytest.fixture
def page(browser_page: Page, made: Made) -> Page:
    ready(browser_page, f"{made.server.url}/#{made.current}")
    painted(browser_page)
    return browser_page


def reloaded(page: Page) -> None:
    """Load the page again, with the settings that have been changed."""
    page.reload()
    page.wait_for_selector("body[aria-busy=false]")
    painted(page)


def right(page: Page) -> str | None:
    """Name of the viewer on the right, or None."""
    names = [name for name in ("prior", "lateral", "further") if page.is_visible(f"#{name}-viewer")]
    assert len(names) < 2
    return names[0] if names else None


def test_the_prior_hangs_on_the_right_with_its_signed_report(page: Page) -> None:
    painted(page, "#prior-viewer")
    assert right(page) == "prior" and page.evaluate("document.body.dataset.pair") == "1"
    assert page.locator("#images button").all_inner_texts() == [
        "Current, PA",
        "Prior",
        "Lateral",
        "Further 1",
    ]
    report = page.locator("#prior-signed")
    assert report.locator("summary").inner_text() == "Signed report of the prior"
    assert report.locator("p").inner_text() == "No change in the small left effusion."
    report.locator("summary").click()
    assert report.locator("p").is_hidden()


def test_other_images_hang_by_click_and_by_key(page: Page) -> None:
    page.click("#images [data-which=lateral]")
    page.wait_for_selector("#lateral-viewer", state="visible")
    assert right(page) == "lateral" and page.is_hidden("#linked")
    assert page.locator("#lateral-viewer .lr-side:visible").count() == 0, "no left and right on a lateral"
    page.locator("#viewer canvas").focus()
    shown = []
    for key in ("v", "v", "v", "Alt+v"):
        page.keyboard.press(key)
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        shown.append(right(page))
    assert shown == ["further", None, "prior", "lateral"]
    pressed = page.locator("#images [aria-pressed=true]")
    assert pressed.all_inner_texts() == ["Current, PA", "Lateral"]
    page.click("#images [data-which=lateral]")
    assert right(page) is None and page.evaluate("document.body.dataset.pair") is None


def test_the_preferred_image_hangs_for_the_next_study_too(page: Page, made: Made, tmp_path: Path) -> None:
    page.click("#images [data-which=lateral]")
    upload(page, small_files.dicom(tmp_path / "lone.dcm", seed=20, PatientID="another"))
    assert right(page) is None and page.is_hidden("#images")
    page.evaluate("id => { location.hash = id; }", made.current)
    page.wait_for_function("id => document.body.dataset.study === id", arg=made.current)
    page.wait_for_selector("#lateral-viewer", state="visible")


def test_a_lateral_is_added_although_the_model_takes_none(page: Page, tmp_path: Path) -> None:
    upload(page, small_files.dicom(tmp_path / "frontal.dcm", seed=30, PatientID="b"))
    page.set_input_files(
        "#lateral-file", small_files.dicom(tmp_path / "l.dcm", seed=31, PatientID="b", ViewPosition="LL")
    )
    painted(page, "#lateral-viewer")
    assert right(page) == "lateral"
    page.reload()
    painted(page, "#lateral-viewer")
    page.click("#remove-lateral")
    page.wait_for_selector("#lateral-viewer", state="hidden")


def test_a_lateral_of_another_patient_is_read_only_on_request(page: Page, tmp_path: Path) -> None:
    upload(page, film(tmp_path / "frontal.dcm", 50, "4712", "mine"))
    other = film(tmp_path / "l.dcm", 51, "4713", "other", ViewPosition="LL")
    page.set_input_files("#lateral-file", other)
    page.wait_for_selector("#message.lr-error")
    assert right(page) is None and "patient" in (page.text_content("#message") or "")
    page.get_by_role("button", name="Read anyway").click()
    painted(page, "#lateral-viewer")
    assert right(page) == "lateral"


def test_a_further_image_is_removed(page: Page, made: Made, tmp_path: Path) -> None:
    client = made.server.client()
    files = [film(tmp_path / f"{seed}.dcm", seed, "4714", "two") for seed in (60, 61)]
    study, _ = (client.study(file.read_bytes())["id"] for file in files)
    page.evaluate("id => { location.hash = id; }", study)
    painted(page, "#further-viewer")
    page.click("#remove-further")
    page.wait_for_selector("#further-viewer", state="hidden")
    assert client.call("GET", f"/api/studies/{study}").json()["further"] == []


def test_the_map_follows_the_selected_sentence(page: Page) -> None:
    drafted(page)
    rows = page.locator("#sentences li.lr-sentence")
    rows.nth(0).locator(".lr-text").click()
    page.keyboard.press("s")
    page.wait_for_function("JSON.parse(document.querySelector('#viewer').dataset.state).overlay")
    with page.expect_response(lambda answer: "/evidence?" in answer.url) as asked:
        rows.nth(2).locator(".lr-text").click()
    second = rows.nth(2).get_attribute("data-sentence")
    assert f"sentence={second}" in asked.value.url
    page.wait_for_function("id => document.querySelector('#evidence-note').textContent !== ''", arg=second)
    assert state_of(page)["overlay"]


def test_measurements_are_kept_with_the_study_undone_and_deleted(page: Page) -> None:
    canvas = page.locator("#viewer canvas")
    canvas.press("m")
    canvas.press("Enter")
    for _ in range(6):
        canvas.press("ArrowRight")
    canvas.press("Enter")
    chip = page.locator("#measurements li")
    chip.wait_for()
    scale = state_of(page)["scale"]
    # 60 screen pixels; 2 mm a pixel at the detector
    length = float(chip.inner_text().split()[1])
    assert length == pytest.approx(60 / scale * 2, abs=0.1) and "mm (at the detector" in chip.inner_text()
    page.reload()
    chip.wait_for()
    painted(page)
    assert state_of(page)["measurements"] == 1
    box = canvas.bounding_box()
    assert box is not None
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2  # its first end
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] - 60, middle[1])
    page.mouse.up()
    page.wait_for_function(
        "old => parseFloat(document.querySelector('#measurements li').innerText.split(' ')[1]) > old + 1", arg=length
    )
    assert float(chip.inner_text().split()[1]) == pytest.approx(120 / scale * 2, abs=0.2)
    chip.locator("button").first.click()
    assert chip.locator("button").first.get_attribute("aria-pressed") == "true"
    chip.get_by_role("button", name="Delete").click()
    chip.wait_for(state="detached")
    page.keyboard.press("Control+z")
    chip.wait_for()
    chip.get_by_role("button", name="Delete").click()
    chip.wait_for(state="detached")
    assert state_of(page)["measurements"] == 0


def test_the_first_picture_needs_less_than_a_second_of_a_line_of_10_mbit(
    page: Page, made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    """A film of 7 MB is opened over a throttled line; the bytes until its first picture are counted, not the time."""
    study = made.server.client().study(Path(str(example())).read_bytes())["id"]
    devtools = page.context.new_cdp_session(page)
    devtools.send("Network.enable")
    devtools.send("Network.emulateNetworkConditions", {
        "offline": False, "latency": 20, "downloadThroughput": BYTES_IN_A_SECOND, "uploadThroughput": BYTES_IN_A_SECOND,
    })  # fmt: skip
    arrived: list[int] = []
    devtools.on("Network.dataReceived", lambda event: arrived.append(event["encodedDataLength"]))
    found = page.evaluate(
        """async id => {
          const start = performance.now();
          const state = () => JSON.parse(document.querySelector('#viewer').dataset.state);
          const until = async (done) => { while (!done()) await new Promise(requestAnimationFrame); };
          location.hash = id;
          await until(() => document.body.dataset.study === id && state().painted);
          const first = performance.now() - start;
          const preview = !state().full;
          await until(() => state().full);
          return { first, preview, full: performance.now() - start };
        }""",
        study,
    )
    sizes = page.evaluate(
        "id => performance.getEntriesByType('resource').filter(one => one.name.includes(id))"
        ".map(one => [one.name, one.encodedBodySize, one.responseEnd])",
        study,
    )
    (shown,) = [end for name, _, end in sizes if "preview=1024" in name]
    before = sum(size for _, size, end in sizes if end <= shown)
    with capsys.disabled():
        print(f"\nfirst picture after {found['first']:.0f} ms and {before:,} bytes, full depth {found['full']:.0f} ms")
    assert found["preview"] and 0 < before < BYTES_IN_A_SECOND // 2
    assert sum(arrived) > 3_000_000, "the full depth has come over the same line"


def test_one_image_at_a_time_on_a_small_screen(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    box = page.locator("#viewer canvas").bounding_box()
    assert box is not None and box["width"] == pytest.approx(390, abs=4) and box["height"] > 120
    assert page.is_hidden("#prior-viewer")
    page.click("#images [data-which=prior]")
    page.wait_for_selector("#prior-viewer", state="visible")
    assert page.is_hidden("#viewer")
    assert page.locator("#images [aria-pressed=true]").all_inner_texts() == ["Prior"]
    page.click("#images [data-which=current]")
    page.wait_for_selector("#viewer", state="visible")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.acceptance(row=25)
@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.nightly)])
def test_no_accessibility_violation_in_any_state_of_the_images(page: Page, made: Made, theme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    made.server.client().call("PUT", "/api/settings", {"theme": theme})
    reloaded(page)
    painted(page, "#prior-viewer")
    found: dict[str, list[Any]] = {}

    def check(screen: str) -> None:
        violations = Axe().run(page, context="#viewing", options=RULES).response["violations"]
        if violations:
            found[screen] = [(one["id"], [node["target"] for node in one["nodes"]]) for one in violations]

    check("prior")
    page.locator("#viewer canvas").press("c")
    page.locator("#viewer canvas").press("g")
    check("measuring")
    page.locator("#viewer canvas").press("Escape")
    page.click("#encoder-map")
    page.wait_for_function("JSON.parse(document.querySelector('#viewer').dataset.state).overlay")
    check("map")
    page.click("#images [data-which=further]")
    check("further")
    page.set_viewport_size({"width": 390, "height": 844})
    check("small")
    assert found == {}


def test_keys_of_the_images_can_be_changed(page: Page, made: Made) -> None:
    client = made.server.client()
    client.call("PUT", "/api/settings", {"keys": {"image-invert": ["y"]}})
    try:
        reloaded(page)
        page.locator("#viewer canvas").press("i")
        assert not state_of(page)["inverted"]
        page.locator("#viewer canvas").press("y")
        assert state_of(page)["inverted"]
        assert page.get_attribute("#viewer [data-tool=invert]", "title") == "Invert (y)"
        page.locator("#prior-viewer canvas").press("t")
        assert (state_of(page)["turns"], state_of(page, "#prior-viewer")["turns"]) == (0, 1), "of the focused image"
    finally:
        client.call("PUT", "/api/settings", {"keys": None})


def test_several_files_and_a_zip_that_are_dropped_become_studies(page: Page, made: Made, tmp_path: Path) -> None:
    files = [small_files.dicom(tmp_path / f"{seed}.dcm", seed=seed, PatientID=f"p{seed}") for seed in (40, 41, 42)]
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(files.pop(), "one.dcm")
    client = made.server.client()
    before = client.call("GET", "/api/studies").json()["total"]
    drop = """async files => {
      const transfer = new DataTransfer();
      for (const [name, text] of files) {
        transfer.items.add(new File([Uint8Array.from(atob(text), one => one.charCodeAt(0))], name));
      }
      document.querySelector('#viewing').dispatchEvent(new DragEvent('drop', {dataTransfer: transfer, bubbles: true}));
    }"""
    named = [*files, tmp_path / "more.zip"]
    page.evaluate(drop, [[one.name, base64.b64encode(one.read_bytes()).decode()] for one in named])
    page.get_by_role("tab", name="Worklist").click()
    page.wait_for_function("count => document.querySelectorAll('#studies tbody tr').length === count", arg=before + 3)
    assert page.evaluate("document.body.dataset.study") == made.current, "the open study stays open"
