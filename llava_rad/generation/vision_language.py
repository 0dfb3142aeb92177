"""Models of transformers' image-text-to-text class as report models: Gemma 3, Qwen-VL, LLaVA-NeXT, InternVL and others.

Their processors prepare images and prompts, ``generate`` of transformers decodes; a profile holds the words and cuts
the answers.
"""

from __future__ import annotations

import threading
from collections.abc import Container, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from encoder.errors import ConfigError, LlavaRadError, ModelError
from llava_rad.generation.answers import Answer
from llava_rad.generation.pieces import Draft
from llava_rad.generation.profiles import Profile

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from encoder.preprocessing import Recipe
    from llava_rad.generation.options import GenerationOptions

    Picture = npt.NDArray[np.uint8]
    _Queue = SimpleQueue[list[int] | BaseException | None]

_TAIL: Final = 16
"""Tokens at the end of a prompt in which a mark of reasoning is looked for."""


class VisionLanguageModel:
    """A loaded model; see ``report_model.ReportModel``.

    Args:
        network: the model, with greedy defaults of decoding.
        processor: of its images and prompts.
        profile: prompt, and cut of answers.
        model_id: name in reports.
        revision: requested revision, or None.
        sha256: of all files and the profile.
        bits: bits of the language model's weights, or None.
    """

    def __init__(
        self, network: Any, processor: Any, profile: Profile, *, model_id: str, revision: str | None = None,
        sha256: str = "", bits: int | None = None,
    ) -> None:  # fmt: skip
        import transformers

        self.config, self.model_id, self.revision, self.sha256 = profile, model_id, revision, sha256
        self._network, self._processor = network, processor
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._sampling = threading.Lock()  # the generator of random numbers is shared by threads
        name = str(network.dtype).removeprefix("torch.")
        weights = [f"{bits}-bit weights"] if bits else []
        self.precision = ", ".join([name, *weights, f"transformers {transformers.__version__}"])
        ends = network.generation_config.eos_token_id
        ends = self._tokenizer.eos_token_id if ends is None else ends
        self._ends = frozenset(ends if isinstance(ends, list) else [ends])

    @property
    def recipe(self) -> Recipe:
        """Preparation of images before the model's own processor."""
        return self.config.preprocessing

    def together(self, settings: GenerationOptions) -> int:
        """Return the batch size."""
        return settings.batch_size

    def warm_up(self, settings: GenerationOptions) -> None:
        """Do nothing: nothing is compiled."""

    def unfamiliar(self, image: Picture) -> bool:
        """Return False: the training images of these models are not described."""
        return False

    def close(self) -> None:
        """Do nothing: there are no processes."""

    def generate(self, images: Sequence[Picture], settings: GenerationOptions) -> list[Draft]:
        """Write a report for each study; samples are drawn for each report on its own."""
        drafts: list[Draft] = []
        each = settings.study.images
        step = each if settings.temperature > 0 else max(len(images), 1)
        for at in range(0, len(images), step):
            inputs, begun = self._inputs(images[at : at + step], settings)
            with self._seeded(settings), torch.inference_mode(), _taken(each):
                rows = self._network.generate(**inputs, **self._decoding(settings))
            drafts += [self._draft(row, begun) for row in _continued(rows, inputs["input_ids"]).tolist()]
        return drafts

    def stream(self, images: Sequence[Picture], settings: GenerationOptions) -> Generator[str, None, Draft]:
        """Write one report piece by piece; reasoning and introductions are no pieces of it."""
        for _, part in self.stream_batch(images, settings, streamed=(0,)):
            if isinstance(part, Draft):
                return part
            yield part
        raise AssertionError("a stream ends with its draft")

    def stream_batch(
        self,
        images: Sequence[Picture],
        settings: GenerationOptions,
        *,
        streamed: Container[int] = (),
        dropped: Container[int] = (),
    ) -> Iterator[tuple[int, str | Draft]]:
        """Write several reports together; by a beam search or sampling, one comes after the other, whole."""
        each = settings.study.images
        reports = len(images) // each
        if settings.beams(self.config) > 1 or (settings.temperature > 0 and reports > 1):
            for number in range(reports):
                if number not in dropped:
                    (draft,) = self.generate(images[number * each : (number + 1) * each], settings)
                    if number in streamed and draft.text:
                        yield number, draft.text
                    yield number, draft
            return
        inputs, begun = self._inputs(images, settings)
        rows: list[list[int]] = [[] for _ in range(reports)]
        shown, open_rows = [""] * reports, set(range(reports))
        for tokens in self._steps(inputs, settings, dropped):
            for row in sorted(open_rows):
                rows[row].append(tokens[row])
                if row in dropped:
                    open_rows.discard(row)
                elif tokens[row] in self._ends:
                    open_rows.discard(row)
                    yield from self._ended(row, rows[row], begun, shown[row], streamed)
                elif row in streamed:
                    text = self._answer(rows[row], begun, complete=False).text
                    if text.startswith(shown[row]) and len(text) > len(shown[row]) and not text.endswith("\ufffd"):
                        yield row, text[len(shown[row]) :]
                        shown[row] = text
        for row in sorted(open_rows):
            if row not in dropped:
                yield from self._ended(row, rows[row], begun, shown[row], streamed)

    def _ended(
        self, number: int, row: Sequence[int], begun: str, shown: str, streamed: Container[int]
    ) -> Iterator[tuple[int, str | Draft]]:
        """Yield the rest of a report that has ended, and its draft."""
        draft = self._draft(row, begun)
        if number in streamed and draft.text != shown:
            # what was shown is a beginning of the text, unless the answer turned out to be cut elsewhere
            yield number, draft.text[len(shown) :] if draft.text.startswith(shown) else f"\n\n{draft.text}"
        yield number, draft

    def _draft(self, row: Sequence[int], begun: str) -> Draft:
        ended = next((at for at, token in enumerate(row) if token in self._ends), None)
        ids = tuple(row if ended is None else row[:ended])
        answer = self._answer(ids, begun, complete=True)
        return Draft(answer.text, ids, complete=ended is not None, notes=answer.notes)

    def _answer(self, ids: Sequence[int], begun: str, *, complete: bool) -> Answer:
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return self.config.split(begun + text, complete=complete)

    def _inputs(self, images: Sequence[Picture], settings: GenerationOptions) -> tuple[Any, str]:
        """Prepare the prompts with their images, padded on the left.

        Returns:
            Arguments of ``generate``, and the mark of reasoning that the prompt ends with, or "".

        Raises:
            ConfigError: if a text holds a token of the model, or its template does not take the conversation.
            LlavaRadError: if prompt, image and answer do not fit the model's context.
        """
        from PIL import Image

        profile, study = self.config, settings.study
        content = profile.content(study, settings.prompt)
        own = " ".join([profile.system, *profile.images.values(), *profile.texts.values()])
        self._refuse_tokens({**study.texts, "instruction": profile.request(settings.prompt), "profile": own})
        pictures = [Image.fromarray(image).convert("RGB") for image in images]
        studies = [pictures[at : at + study.images] for at in range(0, len(pictures), study.images)]
        try:
            if getattr(self._processor, "chat_template", None):
                inputs = self._chat(content, studies)
            else:  # PaliGemma and its like: images, then plain words
                words = "\n".join(part for part in content if isinstance(part, str))
                marks = (getattr(self._processor, "image_token", None) or "") * study.images
                inputs = self._processor(
                    images=studies, text=[marks + words] * len(studies), padding=True, return_tensors="pt"
                )
        except LlavaRadError:
            raise
        except Exception as error:  # templates and processors raise errors of many types
            raise ConfigError(
                f"the processor of the model does not take the prompt ({type(error).__name__})",
                hint="another --profile may fit it",
            ) from error
        inputs = inputs.to(self._network.device, dtype=self._network.dtype)
        self._check_length(inputs["input_ids"].shape[1], settings.longest(profile))
        tail = self._tokenizer.decode(inputs["input_ids"][0][-_TAIL:]).rstrip()
        begun = next((marks.begin for marks in profile.reasoning if tail.endswith(marks.begin)), "")
        return inputs, begun

    def _chat(self, content: Sequence[str | int], studies: Sequence[Sequence[Any]]) -> Any:
        system = [{"type": "text", "text": self.config.system}]
        conversations = []
        for pictures in studies:
            parts = [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": pictures[part]}
                for part in content
            ]
            turns = [{"role": "system", "content": system}] if self.config.system else []
            conversations.append([*turns, {"role": "user", "content": parts}])
        return self._processor.apply_chat_template(
            conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            processor_kwargs={"padding": True},
        )  # fmt: skip

    def _refuse_tokens(self, texts: Mapping[str, str]) -> None:
        """Refuse texts with special tokens, which would end the user's turn or stand for an image.

        Raises:
            ConfigError: if there is one.
        """
        added = self._tokenizer.added_tokens_decoder.values()
        own = {str(token) for token in added if token.special} | {getattr(self._processor, "image_token", None) or ""}
        for name, text in texts.items():
            if held := sorted(token for token in own if token.strip() and token in text):
                raise ConfigError(f"the {name} holds {held[0]}, which is a token of the model")

    def _check_length(self, length: int, new: int) -> None:
        longest = getattr(self._network.config.get_text_config(), "max_position_embeddings", None)
        if isinstance(longest, int) and length + new > longest:
            raise LlavaRadError(
                f"prompt and images ({length} tokens) and {new} new tokens exceed the model's {longest}",
                hint="lower --max-new-tokens or shorten --prompt",
            )

    def _decoding(self, settings: GenerationOptions) -> dict[str, Any]:
        """Return the decoding arguments of ``generate``."""
        usual = {"max_new_tokens": settings.longest(self.config), "num_beams": settings.beams(self.config)}
        if settings.temperature == 0:
            return usual
        return usual | {"do_sample": True, "temperature": settings.temperature, "top_k": 0, "top_p": 1.0}

    @contextmanager
    def _seeded(self, settings: GenerationOptions) -> Iterator[None]:
        """Seed the generator of random numbers for one report, and restore it."""
        if settings.temperature == 0:
            yield
            return
        device = self._network.device
        with self._sampling, torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(settings.seed)
            yield

    def _steps(self, inputs: Any, settings: GenerationOptions, dropped: Container[int]) -> Iterator[list[int]]:
        """Yield the next token of every row until all have ended; ``generate`` runs in a thread of its own."""
        steps: _Queue = SimpleQueue()
        stopped = threading.Event()

        def stop(ids: Tensor, scores: Any, **_: Any) -> Tensor:
            over = [stopped.is_set() or row in dropped for row in range(len(ids))]
            return torch.tensor(over, device=ids.device)

        def run() -> None:
            streamer = _Streamer(steps, inputs["input_ids"])
            try:
                with self._seeded(settings), torch.inference_mode(), _taken(settings.study.images):
                    self._network.generate(
                        **inputs, **self._decoding(settings), streamer=streamer, stopping_criteria=[stop]
                    )
                steps.put(None)
            except BaseException as error:  # raised by the thread that reads the steps
                steps.put(error)

        thread = threading.Thread(target=run, name="generate", daemon=True)
        thread.start()
        try:
            while (step := steps.get()) is not None:
                if isinstance(step, BaseException):
                    raise step
                yield step
        finally:
            stopped.set()
            thread.join()


def _continued(rows: Tensor, prompts: Tensor) -> Tensor:
    """Return what follows the prompts [B, L] in a model's rows [B, L + N].

    Raises:
        ModelError: if the rows do not begin with the prompts: a decoder apart from an encoder begins anew.
    """
    length = prompts.shape[1]
    if not torch.equal(rows[:, :length].cpu(), prompts.cpu()):
        raise ModelError("the model does not continue its prompt: models of an encoder and a decoder are not run")
    return rows[:, length:]


@contextmanager
def _taken(images: int) -> Iterator[None]:
    """Raise ``ModelError`` in one line if a model does not take what its processor prepared.

    Args:
        images: of one study.

    Raises:
        ModelError: for an error of the block; those of the device and its memory pass.
    """
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and (type(error) is not RuntimeError or "memory" in str(error)):
            raise
        raise ModelError(
            f"the model does not take what its processor prepared ({type(error).__name__})",
            hint="it may take one image only" if images > 1 else "its files may be of different versions",
        ) from error


class _Streamer:
    """Puts the next token of every row into a queue; the form is that of transformers' ``BaseStreamer``."""

    def __init__(self, steps: _Queue, prompts: Tensor) -> None:
        self._steps, self._prompts, self._begun = steps, prompts, False

    def put(self, tokens: Tensor) -> None:
        """Take the prompts [B, L], then the next tokens [B]."""
        if self._begun:
            self._steps.put(tokens.tolist())
        else:
            _continued(tokens, self._prompts)
        self._begun = True

    def end(self) -> None:
        """Do nothing: the thread of ``generate`` marks the end."""
