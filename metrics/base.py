"""Base of all metrics: errors, checked texts, files of weights, options, and the class that a metric extends."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Protocol, TypeVar, cast

if TYPE_CHECKING:
    from metrics.cache import Cache
    from metrics.scores import Scores

Precision = Literal["float32", "bfloat16"]
Options = TypeVar("Options")
Made = TypeVar("Made")
PAPER: Final = ("rouge_l", "bleu_4", "rg_er", "chexbert")
"""Metrics of the RAD-DINO paper (table 2)."""
MIN_GROUP: Final = 30
"""Number of reports from which on a group can be the worst one."""
Progress = Callable[[int], None]
Report = Callable[[str, int], Progress]
"""Called with a name and a number of texts; returns the function that is called with the number of texts done."""


class MetricError(Exception):
    """An error that a user can act on: one line without any report's text.

    Attributes:
        exit_code: exit status of a process that ends with the error (1 failed, 2 usage, 5 weights missing or damaged).
        hint: advice on what to do, or None.
    """

    exit_code: int = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class InputError(MetricError):
    """Texts, labels, annotations or tables that cannot be scored: wrong lengths, types or ids."""

    exit_code = 2


class WeightsError(MetricError):
    """Weights that are missing, damaged, or of another model."""

    exit_code = 5


def checked_texts(texts: Sequence[Any], what: str = "texts") -> list[str]:
    """Return texts as a list.

    Raises:
        InputError: if ``texts`` is empty or not a list of strings.
    """
    if isinstance(texts, str) or not hasattr(texts, "__len__"):
        raise InputError(f"{what} must be a list of strings, not {type(texts).__name__}")
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise InputError(f"{what}: number {number} is {type(text).__name__}, not a string")
    if not len(texts):
        raise InputError(f"{what}: there are none")
    return list(texts)


def is_empty(text: str) -> bool:
    """Return True for a text without a letter or digit: white space, punctuation. It scores 0 in every metric."""
    return not any(map(str.isalnum, text))


def checked_pairs(candidates: Sequence[Any], references: Sequence[Any]) -> tuple[list[str], list[str]]:
    """Return N candidates and N references as lists, with "" for every text that :func:`is_empty`.

    Raises:
        InputError: if the lengths differ, the lists are empty, or an element is not a string.
    """
    pairs = tuple(
        ["" if is_empty(text) else text for text in checked_texts(texts, what)]
        for texts, what in ((candidates, "candidates"), (references, "references"))
    )
    if len(pairs[0]) != len(pairs[1]):
        raise InputError(f"{len(pairs[0])} candidates and {len(pairs[1])} references: there must be one of each")
    return pairs[0], pairs[1]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class HubFile:
    """A file of weights in a repository of the Hugging Face hub.

    Attributes:
        repository: ``owner/name``.
        name: name of the file in the repository.
        what: content of the file, for messages.
        option: command-line option that takes a local path instead.
        instead: alternative for a user who has no such file, for messages.
    """

    repository: str
    name: str
    what: str
    option: str
    instead: str = ""

    def find(self, path: str | Path | None = None, *, allow_download: bool = False) -> Path:
        """Return the local path of the file.

        Args:
            path: the file, or a folder that holds ``name``; None looks in the hub cache.
            allow_download: fetch a file that is not in the cache.

        Raises:
            WeightsError: if the file is not found.
        """
        if path is not None:
            given = Path(path).expanduser()
            found = given / self.name if given.is_dir() else given
            if found.is_file():
                return found
            raise WeightsError(f"{self.what} not found: {found} does not exist", hint=self.cure)

        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        offline = not allow_download or constants.HF_HUB_OFFLINE
        try:
            return Path(hf_hub_download(self.repository, self.name, local_files_only=offline))
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
            if allow_download and constants.HF_HUB_OFFLINE:
                why = "the hub is switched off (HF_HUB_OFFLINE)"
            elif allow_download:
                why = f"the hub did not give it ({type(error).__name__})"
            else:
                why = "downloading is off"
            raise WeightsError(
                f"{self.what} not found: hub file {self.repository}:{self.name} is not in the cache and {why}",
                hint=self.cure,
            ) from error

    @property
    def cached(self) -> bool:
        """Return if the hub cache has the file; the hub is not asked."""
        from huggingface_hub import try_to_load_from_cache

        return isinstance(try_to_load_from_cache(self.repository, self.name), str)

    @property
    def cure(self) -> str:
        """Advice for a user whose hub cache lacks the file."""
        cure = f"give {self.option}, or --allow-download to fetch {self.repository}:{self.name}"
        return f"{cure}; {self.instead}" if self.instead else cure


@dataclass(frozen=True)
class CommandLine:
    """Presentation of an option on a command line.

    Attributes:
        panel: heading of the help text under which the option stands; None is the first one.
        metavar: placeholder of the argument in the help text.
        minimum: lowest number allowed.
        kind: type of the argument, if it is not the field's own.
        file: the option names a file whose content is the value.
    """

    panel: str | None = "Weights of the metrics"
    metavar: str | None = None
    minimum: float | None = None
    kind: type | None = None
    file: bool = False


def option(default: Any, **presentation: Any) -> Any:
    """Declare a field of a dataclass of options; see :class:`CommandLine` for ``presentation``.

    The help text of an option is the field's line in the section ``Attributes:`` of its dataclass.
    """
    return field(default=default, metadata={"cli": CommandLine(**presentation)})


class LanguageModel(Protocol):
    """A causal language model that answers prompts greedily."""

    @property
    def weights_id(self) -> str:
        """Id of weights and type: part of signatures and of the cache's keys."""

    def portions(
        self, prompts: Sequence[str], *, batch_size: int, max_prompt_tokens: int, max_new_tokens: int
    ) -> Iterator[list[str]]:
        """Yield the answers to N prompts in their order, in portions of any size.

        Args:
            prompts: N whole texts, in which the model's special tokens are read; longer ones are cut at the end.
            batch_size: prompts at a time.
            max_prompt_tokens: longest prompt.
            max_new_tokens: longest answer.

        Raises:
            WeightsError: if the weights cannot be read.
        """


@dataclass(frozen=True)
class Settings:
    """Metrics to compute, and their options.

    Attributes:
        metrics: Names of registered metrics.
        clean: r2gen: lower case, no punctuation, references cut at 60 tokens, as papers on IU X-ray do.
        device: Device of the metrics' models: cpu, cuda, cuda:1.
        precision: Floating-point type of CheXbert and RadGraph.
        batch_size: Reports that a model takes at a time.
        allow_download: Fetch weights from the hub that are not in its cache.
        min_group: Reports that a group needs to be the worst one.
        options: Values of the metrics' own options by name; see ``Metric.options``.
        language_model: Function of a folder of weights, a device and a type, which gives a language model, or raises
            WeightsError; without one, metrics that ask a language model are not computed.
    """

    metrics: tuple[str, ...] = PAPER
    clean: Literal["none", "r2gen"] = option("none", panel=None)
    device: str = option("cpu")
    precision: Precision = option("float32")
    batch_size: int = option(8, minimum=1)
    allow_download: bool = option(False)
    min_group: int = option(MIN_GROUP, minimum=1, panel=None)
    options: Mapping[str, Any] = field(default_factory=dict)
    language_model: Callable[[Path, str, str], LanguageModel] | None = None
    _made: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, key: str, make: Callable[[], Made]) -> Made:
        """Return what was made for a key before, or make it: the metrics of one evaluation share their models so.

        Settings that ``dataclasses.replace`` makes of others share nothing with them.
        """
        if key not in self._made:
            self._made[key] = make()
        return cast(Made, self._made[key])

    def of(self, kind: type[Options]) -> Options:
        """Return the options of one dataclass, with its defaults for absent ones."""
        names = [one.name for one in dataclasses.fields(kind)]  # type: ignore[arg-type] # kind is a dataclass
        return kind(**{name: self.options[name] for name in names if name in self.options})


class Metric(ABC):
    """A metric of generated reports against references.

    A metric is one class with one row, or one for each variant, in :mod:`metrics.registry`. Command lines, the
    reference, the check of the installation, result tables and figures take everything that they show from the class
    attributes. Importing the module of a metric must not import anything heavy.

    Args:
        name: name of the registry row.
        settings: options of the evaluation.

    Raises:
        MetricError: if weights or packages are missing. No texts have been scored by then.

    Attributes:
        summary: description in one line.
        citation: publication that defines the metric.
        options: dataclasses of the metric's own options, declared with :func:`option`.
        weights: files that the metric needs.
        titles: names of scores in tables and figures; a score without one is shown by its own name.
        headline: score that represents the metric, in a table of several metrics or of what was not computed; "" is the
            row's name.
        leading: scores that come first in tables, in this order.
        labeler: source of the labels, for a metric with scores ``NAME_f1/CLASS`` of single classes.
        context: what the metric can use in addition to the texts: "age", "indication", "prior".
        cache: results of earlier runs, or None; set by whoever runs the metric.
        report: told how many texts are done, or None; set likewise.
    """

    summary: ClassVar[str]
    citation: ClassVar[str] = ""
    options: ClassVar[tuple[type, ...]] = ()
    weights: ClassVar[tuple[HubFile, ...]] = ()
    titles: ClassVar[Mapping[str, str]] = {}
    headline: ClassVar[str] = ""
    leading: ClassVar[tuple[str, ...]] = ()
    labeler: ClassVar[str] = ""
    context: ClassVar[tuple[str, ...]] = ()

    def __init__(self, name: str, settings: Settings) -> None:
        self.name, self.settings = name, settings
        self.cache: Cache | None = None
        self.report: Report | None = None

    @property
    def warnings(self) -> list[str]:
        """Remarks for a reader of the scores, once texts have been scored."""
        return []

    @abstractmethod
    def scores(self, candidates: Sequence[str], references: Sequence[str]) -> Scores:
        """Score N candidates against N references.

        Raises:
            InputError: see :func:`checked_pairs`.
        """

    def scores_in_context(
        self, candidates: Sequence[str], references: Sequence[str], context: Mapping[str, Sequence[str]]
    ) -> Scores:
        """Score N candidates against N references, with what is known of the N patients.

        Args:
            context: columns by the names of :attr:`context`; an age is in years, "" is unknown.
        """
        return self.scores(candidates, references)

    @classmethod
    def title(cls, score: str) -> str | None:
        """Return the name of a score in tables and figures, or None if it is not one of this metric."""
        return cls.titles.get(score)


def option_fields(kinds: Sequence[type]) -> Iterator[str]:
    """Yield the names of all options of several dataclasses."""
    for kind in kinds:
        yield from (one.name for one in dataclasses.fields(kind))
