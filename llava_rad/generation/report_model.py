"""Interface of report models: what reports need of the model that writes them, wherever it comes from and runs.

``llava_rad.generation.found`` finds a model by its name; a :class:`FoundModel` describes it and loads it.
"""

from __future__ import annotations

from collections.abc import Container, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from encoder.files import Digests
    from encoder.preprocessing import Recipe
    from llava_rad.generation.options import GenerationOptions
    from llava_rad.generation.pieces import Draft
    from llava_rad.model.config import GenerationDefaults
    from llava_rad.model.templates import Study

    Image = npt.NDArray[np.uint8]


class Description(Protocol):
    """Facts of a model that are known before it is loaded."""

    @property
    def name(self) -> str:
        """Name in reports."""

    @property
    def demonstration(self) -> bool:
        """True marks every output as coming from a demonstration model."""

    @property
    def generation(self) -> GenerationDefaults:
        """Defaults of decoding."""

    @property
    def preprocessing(self) -> Recipe:
        """Recipe of its images."""

    @property
    def places(self) -> frozenset[str]:
        """Study inputs that its prompt takes, as ``Study.used`` spells them."""

    @property
    def with_impression(self) -> bool:
        """True if an answer may have an impression, see ``llava_rad.model.sections``."""

    def check(self, study: Study) -> None:
        """Refuse study inputs that the prompt does not take.

        Raises:
            ConfigError: if there is one.
        """

    def request(self, given: str | None = None) -> str:
        """Return the request to the model: the one given, or the model's own."""


class ReportModel(Protocol):
    """A loaded model.

    Images are prepared by ``recipe``; those of several reports follow each other, each report's in the order frontal,
    lateral, prior.
    """

    @property
    def config(self) -> Description:
        """Description of the model."""

    @property
    def model_id(self) -> str:
        """Name in reports."""

    @property
    def revision(self) -> str | None:
        """Requested revision of a hub repository, or None."""

    @property
    def sha256(self) -> str:
        """SHA-256 that stands for all files of the model."""

    @property
    def precision(self) -> str:
        """Type of the computation, and what else of it changes texts."""

    @property
    def recipe(self) -> Recipe:
        """Preprocessing recipe of its images."""

    def together(self, settings: GenerationOptions) -> int:
        """Return the number of reports that are best given to one call of ``generate``."""

    def warm_up(self, settings: GenerationOptions) -> None:
        """Do before the first report what would delay it."""

    def generate(self, images: Sequence[Image], settings: GenerationOptions) -> list[Draft]:
        """Write a report for each study's images, as one batch."""

    def stream(self, images: Sequence[Image], settings: GenerationOptions) -> Generator[str, None, Draft]:
        """Write one report piece by piece; the pieces joined are the text of the draft that is returned."""

    def stream_batch(
        self,
        images: Sequence[Image],
        settings: GenerationOptions,
        *,
        streamed: Container[int] = (),
        dropped: Container[int] = (),
    ) -> Iterator[tuple[int, str | Draft]]:
        """Write several reports together; yield each draft with its number as soon as it has ended.

        Args:
            images: of all reports.
            settings: of the decoding.
            streamed: numbers of reports whose pieces are yielded before them, if the model can.
            dropped: numbers of reports that nobody waits for any more.
        """

    def unfamiliar(self, image: Image) -> bool:
        """Return True if an image is unlike those that the model was trained on; False if that is not known."""

    def close(self) -> None:
        """End processes and connections."""


class FoundModel(Protocol):
    """A model that has been found and is not loaded yet."""

    @property
    def name(self) -> str:
        """Name in reports."""

    @property
    def config(self) -> Description:
        """Description of the model."""

    @property
    def remote(self) -> bool:
        """True if pixels and prompts leave this machine."""

    def verify(self, digests: Digests | None = None) -> str:
        """Check its files as far as that is possible without loading it.

        Args:
            digests: of files, known from an earlier reading; default: every file is read.

        Returns:
            ``ReportModel.sha256`` of the loaded model.

        Raises:
            ModelError: if a file is missing or damaged.
        """

    def load(self, options: GenerationOptions) -> ReportModel:
        """Load it.

        Raises:
            ModelError: if it is missing, damaged or of a form that is not read.
            LlavaRadError: if the options do not fit it.
        """
