"""GREEN (Ostmeier et al. 2024): a language model lists the errors of a report against its reference.

The words of the prompt, the form of a conversation, the reading of answers and the formula are those of the authors'
package (https://github.com/Stanford-AIMI/GREEN, ``green_score`` at 02279b8), with which the model was trained and
published. The model itself runs elsewhere: :attr:`metrics.base.Settings.language_model` loads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from metrics.annotations import annotate
from metrics.base import HubFile, LanguageModel, Metric, MetricError, WeightsError, checked_pairs, option
from metrics.findings.errors import Category
from metrics.model_files import find_folder
from metrics.scores import Scores, mean_scores

if TYPE_CHECKING:
    from metrics.base import Settings

MODEL: Final = "StanfordAIMI/GREEN-radllama2-7b"
WEIGHTS: Final = HubFile(MODEL, "config.json", "GREEN's language model", "--green DIR")
_SOURCE: Final = "green_score-02279b8"
_MAX_TOKENS: Final = 2048
"""Of the prompt, and of the answer."""
_ENOUGH: Final = 20
CATEGORIES: Final = tuple(Category)[:6]
"""Kinds of error (a) to (f) of the prompt: ReXVal's, in its order."""
_SIGNIFICANT, _INSIGNIFICANT, _MATCHED = (
    "Clinically Significant Errors",
    "Clinically Insignificant Errors",
    "Matched Findings",
)
_COUNT: Final = re.compile(r"(?<=: )\d+\b(?=\.)")
_DIGITS: Final = 9
"""Digits of a count that are read; more are nonsense."""
_PROMPT: Final = """\
Objective: Evaluate the accuracy of a candidate radiology report in comparison to a reference radiology report \
composed by expert radiologists.

    Process Overview: You will be presented with:

    1. The criteria for making a judgment.
    2. The reference radiology report.
    3. The candidate radiology report.
    4. The desired format for your assessment.

    1. Criteria for Judgment:

    For each candidate report, determine:

    The count of clinically significant errors.
    The count of clinically insignificant errors.

    Errors can fall into one of these categories:

    a) False report of a finding in the candidate.
    b) Missing a finding present in the reference.
    c) Misidentification of a finding's anatomic location/position.
    d) Misassessment of the severity of a finding.
    e) Mentioning a comparison that isn't in the reference.
    f) Omitting a comparison detailing a change from a prior study.
    Note: Concentrate on the clinical findings rather than the report's writing style. Evaluate only the findings \
that appear in both reports.

    2. Reference Report:
    {reference}

    3. Candidate Report:
    {candidate}

    4. Reporting Your Assessment:

    Follow this specific format for your output, even if no errors are found:
    ```
    [Explanation]:
    <Explanation>

    [Clinically Significant Errors]:
    (a) <Error Type>: <The number of errors>. <Error 1>; <Error 2>; ...; <Error n>
    ....
    (f) <Error Type>: <The number of errors>. <Error 1>; <Error 2>; ...; <Error n>

    [Clinically Insignificant Errors]:
    (a) <Error Type>: <The number of errors>. <Error 1>; <Error 2>; ...; <Error n>
    ....
    (f) <Error Type>: <The number of errors>. <Error 1>; <Error 2>; ...; <Error n>

    [Matched Findings]:
    <The number of matched findings>. <Finding 1>; <Finding 2>; ...; <Finding n>
    ```
"""


def prompt(candidate: str, reference: str) -> str:
    """Return the request to compare a report with its reference."""
    return _PROMPT.format(candidate=candidate, reference=reference)


def conversation(request: str) -> str:
    """Return a request as the model reads it: the user's turn, the head of the answer, and the end token.

    The end token after the head comes from the authors' tokenizer, which ends every text with one. What reports hold
    of the model's own tokens is taken out: it would end the user's turn.
    """
    for token in ("<s>", "</s>", "<unk>"):
        request = request.replace(token, "")
    return f"<|user|>\n{request}</s>\n<|assistant|>\n</s>"


@dataclass(frozen=True)
class Judgement:
    """Errors and matched findings that an answer lists.

    Attributes:
        significant: clinically significant errors of the six :data:`CATEGORIES`.
        insignificant: insignificant ones.
        matched: findings of both reports.
        complete: the answer has the sections of significant errors and of matched findings.
    """

    significant: tuple[int, ...]
    insignificant: tuple[int, ...]
    matched: int
    complete: bool

    @property
    def score(self) -> float:
        """Matched findings / (matched findings + significant errors); 0 if nothing matches."""
        return self.matched / (self.matched + sum(self.significant)) if self.matched else 0.0

    @classmethod
    def of(cls, answer: str) -> Judgement:
        """Read an answer. What it does not list in the published form counts as 0."""
        answer = _own(answer)
        sections = [_section(answer, name) for name in (_SIGNIFICANT, _INSIGNIFICANT, _MATCHED)]
        matched = re.match(r"\d+\b(?=\.)", sections[2] or "")
        return cls(
            _errors(sections[0]),
            _errors(sections[1]),
            int(matched[0][:_DIGITS]) if matched else 0,
            sections[0] is not None and sections[2] is not None,
        )

    def packed(self) -> list[int]:
        """Return the numbers that are kept; they hold no words of the reports."""
        return [*self.significant, *self.insignificant, self.matched, int(self.complete)]

    @classmethod
    def unpacked(cls, numbers: Sequence[int]) -> Judgement:
        """Return the judgement whose numbers were kept."""
        return cls(tuple(numbers[:6]), tuple(numbers[6:12]), numbers[12], bool(numbers[13]))


def _own(answer: str) -> str:
    """Return an answer without repeated parts of the prompt."""
    answer = answer.split("<|assistant|>")[-1]
    parts = answer.split("[Explanation]:")
    repeats = "[Explanation]:\n    <Explanation>\n" in answer
    return (parts[1] if repeats else parts[-1]).replace("</s>", "").replace("<unk>", "")


def _section(answer: str, name: str) -> str | None:
    """Return the text below a heading up to an empty line; None without the heading."""
    found = re.search(rf"\[{name}\]:\s*(.*?)(?:\n\s*\n|\Z)", answer, re.DOTALL)
    return None if found is None else found[1]


def _errors(section: str | None) -> tuple[int, ...]:
    """Return the numbers of errors of the six categories, which are lettered or numbered."""
    counts = [0] * len(CATEGORIES)
    if section is not None and not section.startswith("No"):
        for labels in ("abcdef", "123456"):
            entries: list[str] = sorted(re.findall(rf"\([{labels}]\) .*", section))
            for entry in entries:
                if number := _COUNT.search(entry):
                    counts[labels.index(entry[1])] = int(number[0][:_DIGITS])
            if entries:
                break
    return tuple(counts)


@dataclass(frozen=True)
class GreenOptions:
    """Weights of GREEN.

    Attributes:
        green: Folder or hub repository of GREEN's language model. Default: StanfordAIMI/GREEN-radllama2-7b.
        green_dtype: Type of GREEN's language model; auto is float16 on CUDA, as the authors have it, else float32.
    """

    green: str | None = option(None, metavar="DIR-OR-HUB-ID")
    green_dtype: Literal["auto", "float16", "bfloat16", "float32", "8bit", "4bit"] = option("auto")


class Green(Metric):
    """GREEN as a registered metric."""

    summary = "errors and matched findings that GREEN's language model lists, by category"
    citation = (
        "Ostmeier, S. et al. GREEN: Generative Radiology Report Evaluation and Error Notation. "
        "Findings of EMNLP 2024. arXiv 2405.03595."
    )
    options: ClassVar = (GreenOptions,)
    weights: ClassVar = (WEIGHTS,)
    headline = "green"
    titles: ClassVar = {
        "green": "GREEN",
        "green_matched": "GREEN matched findings (per report)",
        "green_significant": "GREEN significant errors (per report)",
        "green_insignificant": "GREEN insignificant errors (per report)",
        **{f"green_{one}": f"GREEN {one.label.lower()} (per report)" for one in CATEGORIES},
    }

    def __init__(self, name: str, settings: Settings) -> None:
        super().__init__(name, settings)
        own = settings.of(GreenOptions)
        if settings.language_model is None:
            raise MetricError(
                "GREEN needs a program that runs its language model",
                hint="'llava-rad evaluate' has one; in Python give Settings a language_model",
            )
        folder = find_folder(own.green or MODEL, WEIGHTS, allow_download=settings.allow_download)
        self._model: LanguageModel = settings.language_model(folder, settings.device, own.green_dtype)
        self._judged = self._incomplete = 0

    @property
    def warnings(self) -> list[str]:
        """Number of answers that are not as published."""
        if not self._incomplete:
            return []
        return [
            f"GREEN: {self._incomplete:,} of {self._judged:,} answers lack a section, which counts as nothing in it."
        ]

    def scores(self, candidates: Sequence[str], references: Sequence[str]) -> Scores:
        """Score N pairs; a pair with an empty text scores 0 and is not judged.

        Returns:
            ``green``, the mean of the scores of single reports; ``green_matched``, ``green_significant``,
            ``green_insignificant`` and ``green_CATEGORY`` (significant errors of one kind), numbers per report.

        Raises:
            InputError: see :func:`metrics.base.checked_pairs`.
            WeightsError: if no answer to 20 or more different prompts has the published form.
        """
        import numpy as np

        pairs = list(zip(*checked_pairs(candidates, references), strict=True))
        judged = [bool(ours and theirs) for ours, theirs in pairs]  # an empty text is ""
        found = iter(self._judgements([prompt(*pair) for pair, both in zip(pairs, judged, strict=True) if both]))
        nothing = Judgement((0,) * 6, (0,) * 6, 0, True)
        rows = [next(found) if both else nothing for both in judged]
        values = {
            "green": [one.score for one in rows],
            "green_matched": [one.matched for one in rows],
            "green_significant": [sum(one.significant) for one in rows],
            "green_insignificant": [sum(one.insignificant) for one in rows],
            **{f"green_{kind}": [one.significant[at] for one in rows] for at, kind in enumerate(CATEGORIES)},
        }
        signature = f"green|weights:{self._model.weights_id}|prompt:{_SOURCE}|max:{_MAX_TOKENS}|aggregate:mean"
        columns = {name: np.array(column, dtype=np.float64) for name, column in values.items()}
        costs = frozenset(name for name in values if name not in ("green", "green_matched"))
        return replace(mean_scores(columns, signature), costs=costs)

    def _judgements(self, prompts: Sequence[str]) -> list[Judgement]:
        if not prompts:
            return []
        different = set(prompts)

        def run(some: list[str]) -> Iterator[list[list[int]]]:
            answers = self._model.portions(
                [conversation(one) for one in some],
                batch_size=self.settings.batch_size,
                max_prompt_tokens=_MAX_TOKENS,
                max_new_tokens=_MAX_TOKENS,
            )
            for portion in answers:
                yield [Judgement.of(answer).packed() for answer in portion]

        numbers = annotate(
            prompts,
            run,
            model=f"green:{self._model.weights_id}:{_SOURCE}",
            cache=self.cache,
            progress=self.report("GREEN", len(different)) if self.report else None,
        )
        judged = [Judgement.unpacked(row) for row in numbers]
        incomplete = sum(not one.complete for one in judged)
        if incomplete == len(judged) and len(different) >= _ENOUGH:
            raise WeightsError(
                f"none of GREEN's {len(different)} answers has the published form: "
                "the weights are random or not of this model",
                hint="check the folder that --green names",
            )
        self._judged += len(judged)
        self._incomplete += incomplete
        return judged
