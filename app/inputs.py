"""What a model is given of a study besides its image: images and texts, where its prompt has a place."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final

from app.review import FIELDS

if TYPE_CHECKING:
    from app.store import Beside
    from llava_rad.model.templates import Study

IMAGES: Final[tuple[Beside, ...]] = ("lateral", "prior")
"""In the order in which a prompt has them."""


def given(state: dict[str, Any], places: Collection[str]) -> dict[str, Any]:
    """The inputs by name: the SHA-256 of an image, the words of a text. A prior report goes with its image alone.

    Args:
        state: of the study, from the store.
        places: of the model's prompt (``llava_rad.model.templates.Template.places``).
    """
    images = {name: state[name]["sha256"] for name in IMAGES if name in places and state[name]}
    texts = {name: text for name, text in state["fields"].items() if name in FIELDS and text}
    if "prior" not in images:
        texts.pop("prior_report", None)
    return images | {name: text for name, text in texts.items() if name.replace("_", "-") in places}


def study_of(inputs: dict[str, Any]) -> Study:
    """The inputs as a prompt takes them; ``grounded`` among them asks for boxes."""
    from llava_rad.model.templates import Study

    return Study(**(inputs | {name: name in inputs for name in IMAGES}))


def outdated(state: dict[str, Any], places: Collection[str]) -> bool:
    """Whether the study's draft was written from other inputs than a new one would be.

    Drafts of earlier versions do not say what they were written from: nothing is claimed of them.
    """
    inputs = (state["draft"] or {}).get("inputs")
    if inputs is None or not state["sentences"]:
        return False
    return {name: value for name, value in inputs.items() if name != "grounded"} != given(state, places)
