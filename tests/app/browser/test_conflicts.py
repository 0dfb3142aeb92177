"""Browser: what a reviewer has not seen is neither overwritten nor signed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from scripts.soak.serving import Client
from tests.app.browser.test_review_page import said
from tests.app.browser.workspace_page import ROWS, saved, state, states, texts

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.acceptance(row=26)]
QUEUE = """
async ([state, actions]) => {
  const { Steps } = await import('/ui/steps.js');
  const [steps, events] = [new Steps(), []];
  for (const kind of ['conflict', 'refused', 'merged']) {
    steps.addEventListener(kind, ({ detail }) => events.push([kind, detail.count ?? 0]));
  }
  steps.note(state);
  const saved = await Promise.all(actions.map((action) => steps.add(state.id, action)));
  return [saved.map(Boolean), events];
}
"""
"""Queues steps on a state at once; returns whether each was saved, and what was said."""
MERGE = "import('/ui/session.js').then(({ session }) => session.act({ action: 'reject', sentence: 's1' }))"
"""A step of the page, after which it shows what others have changed."""


def queued(page: Page, before: dict[str, Any], *actions: dict[str, Any]) -> Any:
    return page.evaluate(QUEUE, [before, actions])


def test_steps_behind_a_change_that_was_not_seen_are_given_up(page: Page, client: Client, study: str) -> None:
    assert client.act(state(client, study), "accept_rest").status == 200

    def while_other_edits(text: str, *actions: dict[str, Any]) -> Any:
        before = state(client, study)
        assert client.act(before, "edit", sentence="s2", text=text).status == 200
        return queued(page, before, *actions)

    edit = {"action": "edit", "sentence": "s3", "text": "Mine."}
    assert while_other_edits("A.", edit, {"action": "sign"}) == [[True, False], [["conflict", 1]]]
    assert texts(client, study)[1:3] == ["A.", "Mine."] and state(client, study)["status"] == "draft"
    reject, over = {"action": "reject", "sentence": "s3"}, {"action": "edit", "sentence": "s2", "text": "Over."}
    assert while_other_edits("B.", reject, over, {"action": "undo"}) == [[True, False, False], [["conflict", 2]]]
    assert texts(client, study)[1] == "B." and states(client, study)[2] == "rejected"
    assert while_other_edits("C.", {"action": "accept", "sentence": "s3"}) == [[True], [["merged", 0]]]
    before = state(client, study)
    for category in ("severity", "place"):
        found = queued(page, before, {"action": "annotate", "sentence": "s2", "category": category})
    assert found == [[False], [["conflict", 1]]]
    assert state(client, study)["sentences"][1]["error"]["category"] == "severity"


def test_steps_behind_a_refused_one_are_given_up(page: Page, client: Client, study: str) -> None:
    assert client.act(state(client, study), "accept_rest").status == 200
    long = {"action": "edit", "sentence": "s2", "text": "x" * 4001}
    for next_step in ("undo", "sign"):
        found = queued(page, state(client, study), long, {"action": next_step})
        assert found == [[False, False], [["refused", 2]]]
    assert set(states(client, study)) == {"accepted"} and state(client, study)["status"] == "draft"


def test_a_newer_state_is_taken_when_no_step_is_on_its_way(page: Page, client: Client, study: str) -> None:
    before = state(client, study)
    assert client.act(before, "edit", sentence="s1", text="Theirs.").status == 200
    shown = page.evaluate(
        """async ([before, newer]) => {
          const { Steps } = await import('/ui/steps.js');
          const [steps, shown] = [new Steps(), []];
          steps.addEventListener('state', ({ detail }) => shown.push(detail.revision));
          steps.note(before);
          const done = steps.add(before.id, { action: 'edit', sentence: 's1', text: 'Mine.' });
          shown.push(steps.note(newer).revision);
          steps.note({ ...newer, revision: newer.revision + 7 });
          return [await done, ...shown, steps.note(newer).revision];
        }""",
        [before, state(client, study)],
    )
    assert texts(client, study)[0] == "Theirs."
    assert shown[0] is None and shown[1:3] == [before["revision"]] * 2
    assert shown[-2] == before["revision"] + 8, "the newest state is shown once the steps have ended"


def test_steps_after_a_merged_new_sentence_are_about_that_sentence(page: Page, client: Client, study: str) -> None:
    before = state(client, study)
    own = f"s{len(before['sentences']) + 1}"
    assert client.act(before, "add", text="Theirs.", after=None, section="findings").status == 200
    steps = [
        {"action": "add", "texts": ["One.", "Two."], "after": None, "section": "findings"},
        {"action": "edit", "sentence": own, "text": "First."},
        {"action": "add", "text": "Third.", "after": f"s{len(before['sentences']) + 2}", "section": "findings"},
        {"action": "remove", "sentence": f"s{len(before['sentences']) + 2}"},
    ]
    assert queued(page, before, *steps) == [[True] * 4, [["merged", 0]]]
    assert texts(client, study)[-3:] == ["Theirs.", "First.", "Third."]


def test_a_text_does_not_replace_one_that_came_while_it_was_typed(page: Page, client: Client, study: str) -> None:
    assert client.act(state(client, study), "accept_rest").status == 200
    page.reload()
    page.locator(ROWS).nth(1).locator(".lr-text").dblclick()
    page.fill(".lr-editor", "Mine.")
    assert client.act(state(client, study), "edit", sentence="s2", text="Theirs.").status == 200
    page.evaluate(MERGE)
    page.wait_for_selector(f"{ROWS} ins >> text=Theirs", state="attached")
    page.focus(".lr-editor")
    page.keyboard.press("Control+Enter")
    said(page, "Your last 2 changes were not saved")
    page.wait_for_selector("#unsent >> text=Mine.")
    assert texts(client, study)[1] == "Theirs." and state(client, study)["status"] == "draft"


def test_a_field_does_not_replace_a_text_that_came_while_it_was_typed(page: Page, client: Client, study: str) -> None:
    page.eval_on_selector("#fields", "one => { one.open = true; }")
    page.focus("#field-indication")
    page.keyboard.type("Cough, ")
    page.wait_for_timeout(1700)  # saves it
    saved(page)
    page.keyboard.type("fever.")
    assert client.act(state(client, study), "field", field="indication", text="Fall.").status == 200
    page.evaluate(MERGE)
    page.keyboard.press("Tab")
    said(page, "changed elsewhere")
    page.wait_for_selector("#unsent >> text=Cough, fever.")
    assert state(client, study)["fields"]["indication"] == page.input_value("#field-indication") == "Fall."
    page.click(".lr-put-back")
    saved(page)
    assert state(client, study)["fields"]["indication"] == "Cough, fever."


def test_a_new_draft_ends_an_open_text_and_offers_it_back(page: Page, client: Client, study: str) -> None:
    page.keyboard.press("e")
    page.fill(".lr-editor", "Mine.")
    page.evaluate(
        """import('/ui/session.js').then(({ session }) => {
          const { study } = session;
          const sentences = study.sentences.map((one) => ({ ...one, draft: 'New.', text: 'New.' }));
          session.show({ ...study, sentences, revision: study.revision + 1 });
        })"""
    )
    page.wait_for_selector("#unsent >> text=Mine.")
    page.keyboard.type("axe")
    assert not page.locator(".lr-editor").count(), "typing goes on, and acts on no sentence"
    assert set(states(client, study)) == {"undecided"}


def test_the_kind_of_error_goes_with_the_change_at_once(page: Page) -> None:
    errors = page.evaluate(
        """async (one) => {
          const { predict } = await import('/ui/steps.js');
          const state = { sentences: [one], fields: {}, labels: [] };
          const after = (action) => predict(state, { sentence: 's1', ...action });
          const steps = [{ action: 'accept' }, { action: 'accept_rest' }, { action: 'edit', text: 'A.' }];
          return steps.map((step) => after(step).sentences[0].error);
        }""",
        {"id": "s1", "draft": "A.", "text": "A.", "state": "undecided", "error": {"category": "other"}},
    )
    assert errors == [None] * 3
