"""This project's checkpoints as report models: decoding by its own engine, or by vLLM in another process."""

from __future__ import annotations

from collections.abc import Container, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.files import sha256_of
from llava_rad.model.checkpoint import load_checked
from llava_rad.model.config import LlavaRadConfig

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from encoder.files import Digests
    from encoder.preprocessing import Recipe
    from llava_rad.generation.engine import Engine
    from llava_rad.generation.options import GenerationOptions
    from llava_rad.generation.pieces import Draft
    from llava_rad.generation.vllm import VllmWriter

    Image = npt.NDArray[np.uint8]


class FoundCheckpoint:
    """A checkpoint folder.

    Attributes:
        folder: of the checkpoint.
        config: its ``config.json``.
        name: of the model in reports.
    """

    remote = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = LlavaRadConfig.load(folder)
        self.name = self.config.name

    def verify(self, digests: Digests | None = None) -> str:
        """Check every file, and return the SHA-256 of ``config.json``, which lists them.

        Raises:
            ModelError: if a file is missing, altered or not listed.
        """
        load_checked(self.folder, digests)
        return sha256_of(self.folder / "config.json")

    def load(self, options: GenerationOptions) -> CheckpointModel:
        """Load the checkpoint.

        Raises:
            ModelError: if it is missing or damaged.
            LlavaRadError: if vLLM is to decode, and cannot be started.
        """
        from llava_rad.generation.engine import Engine

        engine = Engine.from_pretrained(
            self.folder,
            revision=options.revision,
            device=options.device,
            dtype=options.dtype,
            offline=options.offline,
            decodes=options.vllm_python is None,
        )
        if options.vllm_python is None:
            return CheckpointModel(engine)
        from llava_rad.generation.vllm import VllmWriter

        return CheckpointModel(engine, VllmWriter(engine, self.folder, options.vllm_python))


class CheckpointModel:
    """A loaded checkpoint.

    Attributes:
        engine: the model; its word embeddings alone if vLLM decodes.
        vllm: decodes in another process, or None.
    """

    def __init__(self, engine: Engine, vllm: VllmWriter | None = None) -> None:
        self.engine, self.vllm = engine, vllm
        self.config, self.model_id, self.revision, self.sha256 = (
            engine.config, engine.model_id, engine.revision, engine.sha256,
        )  # fmt: skip

    @property
    def precision(self) -> str:
        """Type of the computation, see ``Engine.precision``."""
        return self.engine.precision

    @property
    def recipe(self) -> Recipe:
        """Preprocessing recipe of its images."""
        return self.engine.recipe

    def together(self, settings: GenerationOptions) -> int:
        """Return several batches where the next report takes the place of one that has ended."""
        from llava_rad.generation.decoding import compiles

        return settings.batch_size * (4 if self.vllm is not None or compiles(self.engine, settings) else 1)

    def warm_up(self, settings: GenerationOptions) -> None:
        """Compile decoding where it is compiled."""
        from llava_rad.generation.decoding import warm_up

        if self.vllm is None:
            warm_up(self.engine, settings)

    def generate(self, images: Sequence[Image], settings: GenerationOptions) -> list[Draft]:
        """Write reports, see ``decoding.generate``."""
        from llava_rad.generation.decoding import generate

        if self.vllm is not None:
            return self.vllm.generate(images, settings)
        return generate(self.engine, images, settings, at_once=settings.batch_size)

    def stream(self, images: Sequence[Image], settings: GenerationOptions) -> Generator[str, None, Draft]:
        """Write one report, see ``decoding.stream``; as one piece by vLLM."""
        from llava_rad.generation.decoding import stream

        if self.vllm is None:
            return (yield from stream(self.engine, images[0], settings, images[1:]))
        (draft,) = self.vllm.generate(images, settings)
        yield draft.text
        return draft

    def stream_batch(
        self,
        images: Sequence[Image],
        settings: GenerationOptions,
        *,
        streamed: Container[int] = (),
        dropped: Container[int] = (),
    ) -> Iterator[tuple[int, str | Draft]]:
        """Write reports together, see ``decoding.stream_batch``; by vLLM and a beam search they come at the end."""
        from llava_rad.generation import decoding

        if self.vllm is not None:
            yield from enumerate(self.vllm.generate(images, settings))
        elif settings.beams(self.config) > 1:
            yield from enumerate(decoding.generate(self.engine, images, settings))
        else:
            yield from decoding.stream_batch(self.engine, images, settings, streamed=streamed, dropped=dropped)

    def unfamiliar(self, image: Image) -> bool:
        """Return True if an image is unlike the training images, see ``Engine.unfamiliar``."""
        (found,) = self.engine.unfamiliar(self.engine.encode_images(image[None]))
        return found

    def close(self) -> None:
        """End vLLM's process."""
        if self.vllm is not None:
            self.vllm.close()
