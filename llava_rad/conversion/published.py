"""The report models that are converted: where they are published and under which licence. Facts alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from encoder.errors import LlavaRadError

Kind = Literal["maira-2", "llava-rad", "llava-1.5"]


@dataclass(frozen=True)
class PublishedModel:
    """One model.

    Attributes:
        kind: as ``--from`` calls it.
        repository: on the Hugging Face hub.
        licence: of the weights, as their publisher states it.
        patterns: the files needed of the repository.
        max_new_tokens: longest answer in the publisher's own examples.
    """

    kind: Kind
    repository: str
    licence: str
    patterns: tuple[str, ...]
    max_new_tokens: int

    @property
    def page(self) -> str:
        """Where the licence is and where access is asked for."""
        return f"https://huggingface.co/{self.repository}"


_HUGGING_FACE = ("*.json", "*.safetensors", "tokenizer.model", "*.jinja")

MODELS: dict[str, PublishedModel] = {
    model.kind: model
    for model in (
        PublishedModel(
            "maira-2",
            "microsoft/maira-2",
            "Microsoft Research License Agreement (MSRLA): research use only, access on request",
            _HUGGING_FACE,
            300,  # model card
        ),
        PublishedModel(
            "llava-rad",
            "microsoft/llava-rad",
            "Microsoft Research licence of microsoft/llava-rad, and the Llama 2 Community License of Vicuna-7B v1.5",
            ("*.json", "adapter_model.*", "non_lora_trainables.bin", "*.pt", "open_clip_model.safetensors"),
            256,  # llava/eval/model_mimic_cxr.py
        ),
        PublishedModel("llava-1.5", "llava-hf/llava-1.5-7b-hf", "Llama 2 Community License", _HUGGING_FACE, 150),
    )
}


def model_named(kind: str) -> PublishedModel:
    """A model by its kind.

    Raises:
        LlavaRadError: there is none of that kind.
    """
    if kind not in MODELS:
        raise LlavaRadError(f"models of the kind {kind!r} are not converted", hint=f"choose one of {', '.join(MODELS)}")
    return MODELS[kind]


def of_repository(source: object) -> PublishedModel | None:
    """The model that a hub repository holds, if it is one of these."""
    return next((model for model in MODELS.values() if model.repository == str(source)), None)
