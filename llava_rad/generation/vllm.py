"""Reports by vLLM: encoder and projector run here, the language model in a process of another interpreter.

vLLM pins its own versions of torch and transformers, so it needs another environment. It receives prompts as
embeddings, with the images in place, and returns token ids. See docs/vllm.md.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encoder.errors import LlavaRadError
from llava_rad.generation import vllm_worker
from llava_rad.generation.decoding import draft, prepare, without_padding
from llava_rad.generation.options import Decoding
from llava_rad.generation.pieces import Draft
from llava_rad.generation.words import refuse_adapter
from llava_rad.model.checkpoint import LANGUAGE_MODEL

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from encoder.preprocessing import Recipe
    from llava_rad.generation.engine import Engine
    from llava_rad.model.config import LlavaRadConfig
    from llava_rad.model.templates import Study

_INSTALL = "make an environment for it: python -m venv DIR && DIR/bin/pip install vllm"
_SECONDS = 10.0


class VllmWriter:
    """Greedy writer of reports, like ``llava_rad.generation.decoding.generate``; a context manager.

    Args:
        engine: the model; its word embeddings suffice (``Engine.from_pretrained(…, decodes=False)``).
        folder: checkpoint folder of the model.
        python: interpreter of an environment with vLLM.
        memory: share of the GPU's memory that vLLM may take, in addition to that of ``engine``.

    Raises:
        LlavaRadError: if there is no such interpreter, no vLLM in it, or vLLM cannot load the model.
    """

    def __init__(self, engine: Engine, folder: str | Path, python: str | Path, *, memory: float = 0.7) -> None:
        language_model = Path(folder) / LANGUAGE_MODEL
        refuse_adapter(language_model)
        self._engine, self._python = engine, str(python)
        self._lock = threading.Lock()  # an answer belongs to the question before it
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (close() closes it)
        try:
            self._process = subprocess.Popen(
                [self._python, vllm_worker.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
            )
        except OSError as error:
            self._log.close()
            raise LlavaRadError(f"{python} cannot be run ({error.strerror})", hint=_INSTALL) from None
        load = {"do": "load", "folder": str(language_model), "dtype": _name(engine), "longest": engine.words.longest}
        try:
            self.version = str(self._ask({**load, "memory": memory}).get("vllm"))
            engine.decoder_name = f"vLLM {self.version}"
        except BaseException:
            self.close()
            raise

    @property
    def recipe(self) -> Recipe:
        """Preprocessing recipe of this model's images."""
        return self._engine.recipe

    @property
    def config(self) -> LlavaRadConfig:
        """Description of the checkpoint."""
        return self._engine.config

    def generate(
        self,
        images: Sequence[npt.NDArray[np.uint8]],
        settings: Decoding | None = None,
        studies: Sequence[Study] | None = None,
    ) -> list[Draft]:
        """Write a report for each image.

        Args:
            images: [S, S] uint8 each, prepared by ``recipe``; those of a study one after the other.
            settings: greedy decoding; the checkpoint's defaults if None.
            studies: study inputs of each report, in place of ``settings.study`` for all of them.

        Raises:
            LlavaRadError: if beams or sampling are requested, a prompt is too long, or the worker fails.
        """
        import torch

        if not images:
            return []
        settings = settings or Decoding()
        if settings.beams(self._engine.config) > 1 or settings.temperature > 0:
            raise LlavaRadError("vLLM is asked for greedy reports only", hint="use one beam and temperature 0")
        embeds, mask, looks = prepare(self._engine, images, settings, studies)
        prompts = list(without_padding(embeds, mask))
        tokens = self._engine.tokens
        message = {
            "do": "write",
            "dtype": _name(self._engine),
            "shapes": [list(prompt.shape) for prompt in prompts],
            "max_new_tokens": settings.longest(self._engine.config),
            "eos": tokens.ids.eos,
            "suppressed": list(tokens.suppressed),
        }
        payload = b"".join(row.cpu().contiguous().view(torch.uint8).numpy().tobytes() for row in prompts)
        rows = self._ask(message, payload).get("ids", [])
        if len(rows) != len(prompts) or not all(rows):
            raise LlavaRadError(f"vLLM answered {sum(map(bool, rows))} of {len(prompts)} prompts")
        if any(token in row for row in rows for token in tokens.suppressed):
            raise LlavaRadError("vLLM wrote a token that it was told never to write")
        return [draft(self._engine, row, look, settings) for row, look in zip(rows, looks, strict=True)]

    def close(self) -> None:
        """End the worker."""
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                stream.close() if stream is not None else None
        try:
            self._process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def __enter__(self) -> VllmWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, message: dict[str, Any], payload: bytes = b"") -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        answer = None
        with self._lock, contextlib.suppress(OSError, EOFError, ValueError):  # ValueError: closed, or no JSON
            vllm_worker.send(self._process.stdin, message, payload)
            answer = vllm_worker.receive(self._process.stdout)
        if answer is None:
            raise LlavaRadError(f"the vLLM process ended without an answer{self._last_words()}")
        if answer.get("missing") == "vllm":
            raise LlavaRadError(f"{self._python} has no vLLM", hint=_INSTALL)
        if "error" in answer:
            raise LlavaRadError(f"vLLM failed: {answer['error']}")
        return answer

    def _last_words(self) -> str:
        """Exit code of the process and the last line of its log, for a message."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_SECONDS)
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f" (exit code {self._process.returncode})" + (f": {last}" if last else "")


def _name(engine: Engine) -> str:
    return str(engine.dtype).removeprefix("torch.")
