"""Models behind an OpenAI-compatible server as report models: ``--model openai:URL#NAME``.

Nothing but the pixels, prepared by this project's reader, and the prompt leaves this process: no header value, no file
name. What the weights are is not known here: the SHA-256 of such a model is that of its name and profile.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import queue
import threading
from collections.abc import Container, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from encoder.errors import ConfigError, ModelError
from llava_rad.generation.chat_server import PREFIX, Address, BusyError, ChatServer, Request, ServerError
from llava_rad.generation.pieces import Draft
from llava_rad.generation.profiles import Profile, load_profile, profile_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from encoder.files import Digests
    from llava_rad.generation.options import GenerationOptions

    Image = npt.NDArray[np.uint8]

_LOG = logging.getLogger("llava_rad")
_CHARACTERS_A_TOKEN = 64
"""Longest tokens of usual vocabularies have fewer characters: a longer answer is not the one that was asked for."""


class FoundServer:
    """A model behind a server that has not been asked yet.

    Args:
        options: ``model`` is ``openai:URL#NAME``; ``profile`` names the profile, by default the one that fits NAME.

    Attributes:
        config: the profile.

    Raises:
        ConfigError: if the address has another form or is another machine's and that is not allowed, or the profile is
            not valid.
    """

    def __init__(self, options: GenerationOptions) -> None:
        self.address = Address.parse(str(options.model))
        if not (self.address.local or options.allow_remote):
            raise ConfigError(
                "the model's server is another machine, to which pixels and prompts would be sent",
                hint="--allow-remote, if its operator may have them",
            )
        self.config = profile_of(self.address.name, {}) if options.profile is None else load_profile(options.profile)

    @property
    def name(self) -> str:
        """Name of the model in reports, which do not name its server."""
        return f"{PREFIX}{self.address.name}"

    @property
    def remote(self) -> bool:
        """True if the server is another machine."""
        return not self.address.local

    def verify(self, digests: Digests | None = None) -> str:
        """Return the SHA-256 of name and profile: the weights are not known here."""
        profile = self.config.model_dump(mode="json", exclude={"licence", "source", "tried"})
        content = {"openai": self.address.name, "profile": profile}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def load(self, options: GenerationOptions) -> ServerModel:
        """Connect to the server, and say once what another machine gets.

        A server that cannot be reached is asked again for each report: it may be started later than this process.

        Raises:
            ConfigError: if beams, vLLM or a removal of uncertain findings are requested.
            ModelError: if the server has no such model.
            ServerError: if it refuses the key, or answers nonsense.
        """
        if options.beams(self.config) > 1:
            raise ConfigError("a server is asked for greedy or sampled reports", hint="use one beam")
        options.check_certain()
        if options.vllm_python is not None:
            raise ConfigError("--vllm-python is for checkpoints of this project", hint="the server decodes")
        if self.remote:
            _LOG.warning("llava-rad: %s", sent(self.address))
        server = ChatServer(self.address, seconds=options.server_timeout)
        try:
            self.check_server(server, tries=1)
        except BusyError as error:
            _LOG.warning("llava-rad: %s; it is asked again for each report", error)
        except BaseException:
            server.close()
            raise
        return ServerModel(self.config, server, model_id=self.name, sha256=self.verify())

    def check_server(self, server: ChatServer, tries: int) -> None:
        """Check that a server has the model.

        Raises:
            ModelError: if it has no such model.
            ServerError: if it does not answer.
        """
        names, wanted = server.names(tries), self.address.name
        if names is not None and not {wanted, f"{wanted}:latest"} & set(names):  # Ollama's usual tag
            listed = ", ".join(name for name in names[:5] if name.isprintable())[:300]
            raise ModelError(f"the server has no model {wanted!r}", hint=f"it has {listed or 'none'}")


def sent(address: Address) -> str:
    """Say what is sent to a server, in one line."""
    open_ = " Nothing is encrypted (http)." if address.url.startswith("http:") else ""
    return (
        f"sent to {address.host}: the pixels of every image that is read, with any text that is part of them, and the "
        "prompt, with indication, technique, comparison and prior report where they are given; no header value and no "
        f"file name.{open_}"
    )


class ServerModel:
    """A model that a server runs.

    Args:
        profile: prompt, images, and the cut of its answers.
        server: with the model.
        model_id: name in reports.
        sha256: of name and profile.
    """

    revision: str | None = None
    precision = "chosen by the server"

    def __init__(self, profile: Profile, server: ChatServer, *, model_id: str, sha256: str) -> None:
        self.config, self.recipe, self._server = profile, profile.preprocessing, server
        self.model_id, self.sha256 = model_id, sha256

    def together(self, settings: GenerationOptions) -> int:
        """Return the batch size: so many requests are sent at a time."""
        return settings.batch_size

    def warm_up(self, settings: GenerationOptions) -> None:
        """Do nothing: the server is warm or not."""

    def generate(self, images: Sequence[Image], settings: GenerationOptions) -> list[Draft]:
        """Write a report for each study's images; ``batch_size`` requests are sent at a time."""
        drafts = {number: part for number, part in self.stream_batch(images, settings) if isinstance(part, Draft)}
        return [drafts[number] for number in sorted(drafts)]

    def stream(self, images: Sequence[Image], settings: GenerationOptions) -> Generator[str, None, Draft]:
        """Write one report piece by piece; the pieces joined are the text of the draft that is returned."""
        return self._written(images, settings, shows=True)

    def _written(
        self, images: Sequence[Image], settings: GenerationOptions, *, shows: bool
    ) -> Generator[str, None, Draft]:
        """Write one report; yield the beginning of its text as it grows, or empty pieces if nobody is shown it."""
        profile, longest = self.config, settings.longest(self.config)
        request = Request(self._messages(images, settings), longest, settings.temperature, settings.seed)
        pieces, answer, shown = self._server.stream(request), "", ""
        while True:
            try:
                answer += next(pieces)
            except StopIteration as ended:
                complete: bool = ended.value
                break
            if len(answer) > _CHARACTERS_A_TOKEN * longest:
                pieces.close()
                raise ServerError(f"the model's server sends more than the {longest} tokens that it was asked for")
            text = profile.split(answer, complete=False).text if shows else ""
            new = text[len(shown) :] if text.startswith(shown) else ""
            shown += new
            yield new
        found = profile.split(answer)
        if not found.text.startswith(shown):  # what was shown stays: it has been read
            return Draft(shown, (), complete, notes=found.notes)
        yield found.text[len(shown) :]
        return Draft(found.text, (), complete, notes=found.notes)

    def stream_batch(
        self,
        images: Sequence[Image],
        settings: GenerationOptions,
        *,
        streamed: Container[int] = (),
        dropped: Container[int] = (),
    ) -> Iterator[tuple[int, str | Draft]]:
        """Write reports at the same time, as many as ``batch_size``; the first failure ends all of them.

        Args:
            images: of all reports.
            settings: of the decoding.
            streamed: numbers of reports whose pieces are yielded before them.
            dropped: numbers of reports that nobody waits for any more: their connections are closed.
        """
        each = settings.study.images
        reports = [images[at : at + each] for at in range(0, len(images), each)]
        parts: queue.SimpleQueue[tuple[int, str | Draft | BaseException]] = queue.SimpleQueue()
        stopped = threading.Event()

        def write(number: int) -> None:
            try:
                pieces = self._written(reports[number], settings, shows=number in streamed)
                while True:
                    if stopped.is_set() or number in dropped:
                        pieces.close()
                        return
                    try:
                        piece = next(pieces)
                    except StopIteration as ended:
                        parts.put((number, ended.value))
                        return
                    if piece and number in streamed:
                        parts.put((number, piece))
            except BaseException as error:  # raised again in the thread that waits
                parts.put((number, error))

        pool = ThreadPoolExecutor(max(1, min(settings.batch_size, len(reports))), thread_name_prefix="server")
        try:
            waiting = {pool.submit(write, number): number for number in range(len(reports))}
            left = set(waiting.values())
            while left:
                try:
                    number, part = parts.get(timeout=0.2)
                except queue.Empty:
                    left -= {number for number in left if number in dropped}
                    continue
                if isinstance(part, BaseException):
                    if number in dropped:
                        left.discard(number)
                        continue
                    raise part
                if isinstance(part, Draft):
                    left.discard(number)
                if number not in dropped:
                    yield number, part
        finally:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def unfamiliar(self, image: Image) -> bool:
        """Return False: what the model was trained on is not known."""
        return False

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    def _messages(self, images: Sequence[Image], settings: GenerationOptions) -> list[dict[str, Any]]:
        """Return the conversation: pixels as PNG and words, in the order of the profile."""
        parts = [
            {"type": "text", "text": one}
            if isinstance(one, str)
            else {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_png(images[one])}"}}
            for one in self.config.content(settings.study, settings.prompt)
        ]
        system = self.config.system
        first = [{"role": "system", "content": system}] if system else []
        return [*first, {"role": "user", "content": parts}]


def _png(pixels: Image) -> str:
    """Return grey levels [h, w] as the base64 form of a PNG file, which holds nothing else."""
    from PIL import Image as Pictures

    stream = io.BytesIO()
    Pictures.fromarray(pixels).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
