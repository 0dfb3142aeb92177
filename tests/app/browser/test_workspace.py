"""Browser: the report as a workspace: deciding, keys, macros, and going from study to study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scripts.soak.serving import Client, Served
from tests.app.browser.test_review_page import all_decided, decide, ready, said
from tests.app.browser.workspace_page import ROWS, at, new_study, saved, selected, state, states, texts, type_new
from tests.llava_rad import small_files

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.acceptance(row=26)]


def test_accepting_an_edited_sentence_keeps_its_text_and_going_back_is_an_action_of_its_own(
    page: Page, client: Client, study: str
) -> None:
    drafts = texts(client, study)
    page.keyboard.press("e")
    page.fill(".lr-editor", "No pulmonary oedema.")
    page.keyboard.press("Enter")
    page.keyboard.press("1")
    page.keyboard.press("a")
    page.locator(f"{ROWS} .lr-mark").first.click()
    saved(page)
    assert texts(client, study)[0] == "No pulmonary oedema." and states(client, study)[0] == "edited"
    assert page.locator(f"{ROWS} del").count() and page.locator(f"{ROWS} ins").count()
    page.keyboard.press("1")
    page.keyboard.press("r")
    saved(page)
    assert texts(client, study)[0] == drafts[0] and states(client, study)[0] == "accepted"


def test_a_double_click_on_a_button_acts_once_and_buttons_stay_in_their_places(
    page: Page, client: Client, study: str
) -> None:
    row = page.locator(ROWS).nth(1)
    row.locator(".lr-text").click()
    places = [one.bounding_box() for one in page.locator(f"{ROWS} .lr-tools").all()]
    row.locator(".lr-do-accept").dblclick()
    saved(page)
    assert states(client, study)[1] == "accepted" and set(states(client, study)) == {"accepted", "undecided"}
    page.locator(ROWS).nth(2).locator(".lr-mark").dblclick()
    saved(page)
    assert states(client, study)[:3] == ["undecided", "accepted", "accepted"]
    page.locator("#accept-rest").dblclick()
    saved(page)
    assert set(states(client, study)) == {"accepted"}
    assert [one.bounding_box() for one in page.locator(f"{ROWS} .lr-tools").all()] == places


def test_a_loud_warning_of_the_draft_stands_above_it(page: Page, client: Client, study: str) -> None:
    loud = [one["text"] for one in state(client, study)["notices"] if one["level"] == "loud"]
    assert any("do not rely on this draft" in text for text in loud), "noise is unlike the training images"
    shown = page.locator("#warnings .lr-loud")
    assert shown.count() == len(loud)
    box, report = shown.first.bounding_box(), page.locator("#report").bounding_box()
    assert box and report and box["y"] + box["height"] <= report["y"]


def test_a_new_draft_over_decisions_is_asked_for_and_undone(page: Page, client: Client, study: str) -> None:
    page.keyboard.press("x")
    page.keyboard.press("a")
    saved(page)
    before = states(client, study)
    page.click("#write")
    page.click("dialog >> text=Cancel")
    assert states(client, study) == before
    page.click("#write")
    page.click("dialog >> button.lr-primary")
    page.wait_for_function(f"document.querySelector('#left').textContent === '{len(before)} to decide'")
    assert set(states(client, study)) == {"undecided"}
    page.click("#undo")
    page.wait_for_selector(f"{ROWS}.lr-is-rejected")
    assert states(client, study) == before


def test_new_sentences_follow_each_other(page: Page, client: Client, study: str) -> None:
    for name in ("A", "B", "C"):
        type_new(page, f"{name}.")
        page.keyboard.press("Enter")
    saved(page)
    assert texts(client, study)[1:4] == ["A.", "B.", "C."]


def test_a_refused_file_can_be_read_anyway(page: Page, client: Client, study: str, tmp_path: Path) -> None:
    page.set_input_files("#file", small_files.dicom(tmp_path / "hand.dcm", BodyPartExamined="HAND"))
    said(page, "The file was not opened")
    assert "--force" not in (page.text_content("#message") or "")
    assert page.evaluate("document.body.dataset.study") == study
    page.click("text=Read anyway")
    page.wait_for_function("study => ![study, ''].includes(document.body.dataset.study)", arg=study)


def test_accepting_twice_is_one_step_and_undone_steps_are_redone(page: Page, client: Client, study: str) -> None:
    page.keyboard.press("a")
    page.keyboard.press("1")
    page.keyboard.press("a")
    saved(page)
    page.keyboard.press("Control+z")
    saved(page)
    assert set(states(client, study)) == {"undecided"} and page.is_disabled("#undo")
    page.keyboard.press("Control+y")
    saved(page)
    assert states(client, study)[0] == "accepted"


def test_a_step_can_be_undone_before_its_answer_comes(page: Page, client: Client, study: str) -> None:
    page.evaluate(
        """() => {
          for (const [key, ctrlKey] of [['a', false], ['z', true]]) {
            document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key, ctrlKey, bubbles: true }));
          }
        }"""
    )
    saved(page)
    assert set(states(client, study)) == {"undecided"} and page.is_enabled("#redo")


def test_characters_decide_only_inside_the_list(page: Page, client: Client, study: str) -> None:
    for place in ("document.activeElement.blur()", "document.querySelector('#divider').focus()"):
        page.evaluate(place)
        page.keyboard.type("axxaun a cough 1")
    saved(page)
    assert set(states(client, study)) == {"undecided"} and not page.locator("#new-sentence").count()
    page.keyboard.press("Alt+a")
    saved(page)
    assert states(client, study)[0] == "accepted", "a key with Alt acts anywhere on the tab"


def test_keys_can_be_changed_and_single_keys_switched_off(page: Page, client: Client, study: str) -> None:
    page.keyboard.press("Control+/")
    page.locator("[data-command=accept] input").press("q")
    page.keyboard.press("Escape")
    page.locator(ROWS).nth(0).focus()
    page.keyboard.press("a")
    page.keyboard.press("q")
    saved(page)
    assert states(client, study).count("accepted") == 1
    page.click("#keys")
    page.uncheck("#single-keys")
    page.keyboard.press("Escape")
    page.reload()
    page.wait_for_selector(ROWS)
    page.locator(ROWS).nth(1).focus()
    page.keyboard.press("q")
    page.keyboard.press("x")
    saved(page)
    assert states(client, study).count("undecided") == len(states(client, study)) - 1
    client.call("PUT", "/api/settings", {"keys": None, "single_keys": None})


def test_deciding_the_last_sentence_goes_to_the_first_that_is_undecided(page: Page, client: Client, study: str) -> None:
    count = len(states(client, study))
    page.keyboard.press(str(count))
    page.keyboard.press("a")
    assert selected(page) == 0
    page.keyboard.press("Shift+a")
    all_decided(page)


def test_a_macro_and_a_normal_sentence_are_added_line_by_line(page: Page, client: Client, study: str) -> None:
    client.call("PUT", "/api/settings", {"macros": [{"name": ".nc", "text": "One.\nTwo.", "section": "findings"}]})
    page.reload()
    page.wait_for_function("document.activeElement.closest('#sentences li')")
    type_new(page, ".nc")
    page.keyboard.press("Enter")
    page.keyboard.press("i")
    page.wait_for_selector("dialog.lr-palette")
    page.keyboard.type("effusion")
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+n")
    page.keyboard.type("No acute disease.")
    page.keyboard.press("Enter")
    saved(page)
    found = state(client, study)["sentences"]
    assert [one["text"] for one in found][1:3] == ["One.", "Two."] and "effusion" in found[3]["text"]
    assert (found[-1]["text"], found[-1]["section"]) == ("No acute disease.", "impression")
    for count in (1, 2, 4):  # the macro's sentences are one step
        page.keyboard.press("Control+z")
        saved(page)
        assert len(state(client, study)["sentences"]) == len(found) - count
    page.keyboard.press("Control+y")
    saved(page)
    assert [one["text"] for one in state(client, study)["sentences"]][1:3] == ["One.", "Two."]
    long = {"name": ".long", "text": "x" * 3990, "section": "findings"}
    client.call("PUT", "/api/settings", {"macros": [long]})  # in another window
    page.keyboard.press("Control+/")
    page.wait_for_selector("dialog[open]")
    assert page.input_value("[aria-label='Name of macro 1']") == ".long"
    page.keyboard.press("Escape")
    type_new(page, "More than ten characters, .long")
    page.keyboard.press("Enter")
    page.wait_for_selector(".lr-hint >> text=does not fit")
    assert page.input_value("#new-sentence").endswith(".long")
    client.call("PUT", "/api/settings", {"macros": None})


def test_a_clicked_arrow_gives_the_focus_to_the_report_and_a_pressed_one_keeps_it(
    browser_page: Page, server: Served, client: Client
) -> None:
    studies = [new_study(client, seed) for seed in (61, 62, 63)]
    page = at(browser_page, server, studies[2])
    page.wait_for_function("!document.querySelector('#next').disabled")
    page.click("#next")
    page.wait_for_function("id => document.body.dataset.study === id", arg=studies[1])
    page.wait_for_function("document.activeElement.closest('#sentences li')")
    page.wait_for_function("!document.querySelector('#next').disabled")
    page.press("#next", "Enter")
    page.wait_for_function("id => document.body.dataset.study === id", arg=studies[0])
    page.wait_for_function("!document.querySelector('#previous').disabled")
    assert page.evaluate("document.activeElement.closest('#sentences li')") is None


def test_a_change_gets_its_kind_of_error_by_one_key(page: Page, client: Client, study: str) -> None:
    page.keyboard.press("x")
    page.keyboard.press("f")
    page.keyboard.press("Shift+1")
    saved(page)
    found = state(client, study)["sentences"][0]
    assert found["error"] == {"category": "false_finding", "significance": "urgent"}
    page.wait_for_selector(f"{ROWS} .lr-note >> text=False finding")
    page.select_option("#error-category", "severity")
    saved(page)
    assert state(client, study)["sentences"][0]["error"]["category"] == "severity"


def test_findings_are_confirmed_and_corrected(page: Page, client: Client, study: str) -> None:
    def corrected() -> dict[str, str]:
        return {one["finding"]: one["corrected"] for one in state(client, study)["labels"] if one["corrected"]}

    page.check("#all-labels")
    page.check("#label-edema")
    page.locator("[data-finding=Fracture] select").select_option("uncertain")
    saved(page)
    present = {one["finding"]: one["present"] for one in state(client, study)["labels"]}
    assert corrected() == {"Edema": present["Edema"], "Fracture": "uncertain"}
    page.uncheck("#label-edema")
    saved(page)
    assert corrected() == {"Fracture": "uncertain"}


def test_a_key_that_is_held_down_decides_once(page: Page, client: Client, study: str) -> None:
    for _ in range(3):
        page.keyboard.down("a")
    page.keyboard.up("a")
    saved(page)
    assert states(client, study).count("accepted") == 1


def test_a_removed_sentence_leaves_the_focus_in_the_list(page: Page, client: Client, study: str) -> None:
    count = len(states(client, study))
    type_new(page, "Mine.")
    page.keyboard.press("Enter")
    page.keyboard.press("x")
    page.wait_for_function("document.activeElement.closest('#sentences li')")
    saved(page)
    assert len(states(client, study)) == count


def test_a_double_click_on_sign_and_next_signs_one_study(browser_page: Page, server: Served, client: Client) -> None:
    studies = [new_study(client, seed) for seed in (31, 32)]
    for study in studies:
        assert client.act(state(client, study), "accept_rest").status == 200
    page = at(browser_page, server, studies[1])
    page.wait_for_function("!document.querySelector('#next').disabled")
    page.locator("#sign-next").dblclick()
    page.wait_for_function("id => document.body.dataset.study !== id", arg=studies[1])
    saved(page)
    assert [state(client, study)["status"] for study in studies] == ["draft", "signed"]


@pytest.mark.acceptance(row=25)
@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.nightly)])
def test_editors_kept_texts_and_dialogs_have_no_accessibility_violation(
    browser_page: Page, server: Served, study: str, theme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = browser_page
    ready(page, f"{server.url}/?__theme={theme}#{study}")
    page.wait_for_function("document.activeElement.closest('#sentences li')")
    rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found: dict[str, list[Any]] = {}

    def check(screen: str) -> None:
        violations = Axe().run(page, options={"runOnly": rules}).response["violations"]
        if violations:
            found[screen] = [(one["id"], [node["target"] for node in one["nodes"]]) for one in violations]

    page.keyboard.press("x")
    page.keyboard.press("f")
    type_new(page, "Half")
    check("composing")
    page.reload()
    page.wait_for_selector("#unsent >> text=Half")
    check("kept text")
    page.click("#keys")
    check("keys and macros")
    page.keyboard.press("Escape")
    page.click("#palette")
    page.wait_for_selector("dialog.lr-palette")
    check("normal sentences")
    page.keyboard.press("Escape")
    page.click("#write")
    page.wait_for_selector("dialog")
    check("question")
    assert found == {}


def test_signing_opens_the_next_study_and_back_returns(browser_page: Page, server: Served, client: Client) -> None:
    studies = [new_study(client, seed) for seed in (11, 12, 13)]
    page = at(browser_page, server, studies[2])  # the newest is the first of the worklist
    page.wait_for_function("!document.querySelector('#next').disabled")
    page.keyboard.press("Control+Enter")
    said(page, "still to be decided")
    page.keyboard.press("Shift+a")
    page.keyboard.press("Control+Enter")
    page.wait_for_function("id => document.body.dataset.study === id", arg=studies[1])
    said(page, "Signed: ")
    assert state(client, studies[2])["status"] == "signed"
    page.wait_for_function("document.activeElement.closest('#sentences li')")
    page.keyboard.press("Shift+j")
    page.wait_for_function("id => document.body.dataset.study === id", arg=studies[0])
    page.wait_for_function("!document.querySelector('#previous').disabled")
    page.keyboard.press("Alt+PageUp")
    page.wait_for_function("id => document.body.dataset.study === id", arg=studies[1])
    page.get_by_role("tab", name="Review").press("ArrowRight")
    page.wait_for_selector("#panel-worklist", state="visible")
    page.locator(f"tr[data-study='{studies[0]}'] button").first.click()
    page.wait_for_selector("#panel-review", state="visible")
    page.wait_for_function("id => document.body.dataset.study === id", arg=studies[0])
    page.go_back()
    page.wait_for_selector("#panel-worklist", state="visible")
    page.go_back()
    page.wait_for_selector("#panel-review", state="visible")
    page.wait_for_function("id => document.body.dataset.study === id", arg=studies[1])
    page.go_back()
    page.wait_for_function("id => document.body.dataset.study === id", arg=studies[0])


def test_signing_from_a_field_saves_its_text_and_leaves_it(browser_page: Page, server: Served, client: Client) -> None:
    studies = [new_study(client, seed) for seed in (51, 52)]
    assert client.act(state(client, studies[1]), "accept_rest").status == 200
    page = at(browser_page, server, studies[1])
    page.wait_for_function("!document.querySelector('#next').disabled")
    page.eval_on_selector("#fields", "one => { one.open = true; }")
    page.focus("#field-indication")
    page.keyboard.type("Left pneumonectomy.")
    page.keyboard.press("Control+Enter")
    page.wait_for_function("id => document.body.dataset.study && document.body.dataset.study !== id", arg=studies[1])
    page.wait_for_function("document.activeElement.closest('#sentences li')")
    (signed,) = state(client, studies[1])["signed"]
    assert signed["document"]["fields"]["indication"] == "Left pneumonectomy."


def test_a_step_made_just_before_leaving_a_study_is_saved(browser_page: Page, server: Served, client: Client) -> None:
    first, second = new_study(client, 21), new_study(client, 22)
    page = at(browser_page, server, second)
    page.evaluate(
        "id => { document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key: 'x', bubbles: true }));"
        " location.hash = id; }",
        first,
    )
    page.wait_for_function("id => document.body.dataset.study === id", arg=first)
    page.evaluate(f"import('/ui/session.js').then(({{ session }}) => session.steps.settled('{second}'))")
    assert states(client, second)[0] == "rejected"
    decide(page, 0, "accept")
    saved(page)
    assert states(client, first)[0] == "accepted"
