"""Decoding of reports from prepared images: greedy by default, as one batch or one stream."""

from __future__ import annotations

from collections.abc import Container, Generator, Iterator, Sequence
from itertools import accumulate, chain, islice
from typing import TYPE_CHECKING, NamedTuple

import torch

from encoder.errors import LlavaRadError
from llava_rad.generation.abstention import withhold
from llava_rad.generation.compiled import EVERY, Tokens
from llava_rad.generation.engine import Engine
from llava_rad.generation.options import Decoding
from llava_rad.generation.pieces import Draft

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from llava_rad.generation.llama import Llama
    from llava_rad.model.templates import Study


class Look(NamedTuple):
    """Facts about a report's frontal image from its features.

    Attributes:
        unfamiliar: the image is unlike the training images.
        unsure: findings that cannot be judged; none where uncertain findings stay as written.
    """

    unfamiliar: bool
    unsure: tuple[str, ...]


def generate(
    engine: Engine,
    images: Sequence[npt.NDArray[np.uint8]],
    settings: Decoding | None = None,
    *,
    at_once: int | None = None,
    studies: Sequence[Study] | None = None,
) -> list[Draft]:
    """Write a report for each image, or for each study, as one batch.

    Args:
        engine: the model.
        images: [S, S] uint8 each, prepared by ``engine.recipe``; if ``settings.study`` has several images, those of
            the first report, then those of the second and so on, each in the order frontal, lateral, prior.
        settings: decoding; the checkpoint's defaults if None.
        at_once: reports at a time where decoding is compiled: the next one begins as soon as one has ended. None writes
            all at once, as every other decoding does.
        studies: study inputs of each report, in place of ``settings.study`` for all of them.

    Raises:
        LlavaRadError: if prompt, image and answer do not fit the language model's context.
    """
    if not images:
        return []
    settings = settings or Decoding()
    studies = studies or [settings.study] * (len(images) // settings.study.images)
    if compiles(engine, settings):
        return _generate_in_slots(engine, images, settings, studies, min(at_once or len(studies), len(studies)))
    embeds, mask, looks = prepare(engine, images, settings, studies)
    if settings.beams(engine.config) > 1:
        rows = _beam_search(engine, embeds, mask, settings)
    else:
        rows = [[] for _ in studies]
        for row, token in chain.from_iterable(_decode(engine, embeds, mask, settings)):
            rows[row].append(token)
    return [draft(engine, row, look, settings) for row, look in zip(rows, looks, strict=True)]


def stream(
    engine: Engine,
    image: npt.NDArray[np.uint8],
    settings: Decoding | None = None,
    others: Sequence[npt.NDArray[np.uint8]] = (),
) -> Generator[str, None, Draft]:
    """Write one report piece by piece; the pieces joined are the text of the draft that is returned.

    Args:
        engine: the model.
        image: [S, S] uint8, prepared by ``engine.recipe``.
        settings: decoding; the checkpoint's defaults if None.
        others: lateral and prior image of ``settings.study``.

    Raises:
        LlavaRadError: as ``generate``, or if a beam search is requested.
    """
    settings = settings or Decoding()
    if settings.beams(engine.config) > 1:
        raise LlavaRadError("beam search cannot be streamed", hint="use one beam, or do not stream")
    for _, piece in stream_batch(engine, [image, *others], settings, streamed=(0,)):
        if isinstance(piece, Draft):
            return piece
        yield piece
    raise AssertionError("a stream ends with its draft")


def stream_batch(
    engine: Engine,
    images: Sequence[npt.NDArray[np.uint8]],
    settings: Decoding,
    *,
    streamed: Container[int] = (),
    dropped: Container[int] = (),
) -> Iterator[tuple[int, str | Draft]]:
    """Write several reports together, yielding each draft with its number as soon as it has ended.

    Args:
        engine: the model.
        images: as for ``generate``.
        settings: greedy decoding or sampling.
        streamed: numbers of the reports whose pieces are yielded as well, before the draft; joined they are its text.
        dropped: numbers of reports that nobody waits for any more, looked at before every token: they leave the batch
            and yield no draft. Where decoding is compiled they are written to their end.
    """
    embeds, mask, looks = prepare(engine, images, settings)
    rows: list[list[int]] = [[] for _ in looks]
    shown = [""] * len(rows)
    longest, eos = settings.longest(engine.config), engine.tokens.ids.eos
    for tokens in _tokens(engine, embeds, mask, settings, dropped):
        for row, token in tokens:
            rows[row].append(token)
        for row in dict.fromkeys(row for row, _ in tokens):
            if row in dropped:
                continue
            ended = rows[row][-1] == eos or len(rows[row]) == longest
            if row in streamed and (ended or not looks[row].unsure):  # statements may be removed at the end
                text = draft(engine, rows[row], looks[row], settings).text
                # an incomplete multi-byte character decodes to U+FFFD
                whole = text.startswith(shown[row]) and not text.endswith("\ufffd")
                if (whole or ended) and len(text) > len(shown[row]):
                    yield row, text[len(shown[row]) :]
                    shown[row] = text
            if ended:
                yield row, draft(engine, rows[row], looks[row], settings)


def prepare(
    engine: Engine,
    images: Sequence[npt.NDArray[np.uint8]],
    settings: Decoding,
    studies: Sequence[Study] | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None, list[Look]]:
    """Embed the prompts with their images, and look at the features of the frontal images.

    Args:
        engine: the model.
        images: as for ``generate``.
        settings: instruction, study inputs and longest answer.
        studies: study inputs of each report, in place of ``settings.study`` for all of them.

    Returns:
        Embeddings and mask as ``Engine.embed`` returns them, and one look per report.

    Raises:
        LlavaRadError: if prompt, image and answer do not fit the language model's context, or uncertain findings are
            not to be written and the checkpoint has no probabilities of findings.
    """
    import numpy as np

    studies = studies or [settings.study] * (len(images) // settings.study.images)
    prompt = engine.config.conversation.with_instruction(settings.prompt)
    patches = engine.encode_images(np.stack(images))
    embeds, mask = engine.embed(patches, [prompt.with_study(study) for study in studies])
    length, longest, new = embeds.shape[1], engine.words.longest, settings.longest(engine.config)
    what = "prompt and image" if len(images) == len(studies) else "prompt and images"
    if length + new > longest:
        raise LlavaRadError(
            f"{what} ({length} tokens) and {new} new tokens exceed the model's {longest}",
            hint="lower --max-new-tokens or shorten --prompt",
        )
    starts = list(accumulate((study.images for study in studies), initial=0))[:-1]
    frontal = patches[starts]
    unsure = [()] * len(starts) if settings.unsure == "written" else engine.unsure(frontal)
    return embeds, mask, [Look(*both) for both in zip(engine.unfamiliar(frontal), unsure, strict=True)]


def draft(engine: Engine, row: Sequence[int], look: Look, settings: Decoding) -> Draft:
    """Make a draft of generated ids, up to the end token, without findings that cannot be judged."""
    eos = engine.tokens.ids.eos
    complete = eos in row
    ids = tuple(row[: row.index(eos)] if complete else row)
    text = engine.tokens.decode(ids)
    if not look.unsure or engine.findings is None:
        return Draft(text, ids, complete, look.unfamiliar)
    phrases = engine.findings.phrases
    found = withhold(text, look.unsure, phrases, say=settings.unsure == "stated")
    notes = [f"findings that cannot be judged: {', '.join(phrases[name][0] for name in look.unsure)}"]
    if found.left:
        notes.append(f"of these the report still speaks of: {', '.join(phrases[name][0] for name in found.left)}")
    return Draft(found.text, ids, complete, look.unfamiliar, tuple(notes))


def compiles(engine: Engine, settings: Decoding) -> bool:
    """Tell whether greedy decoding is compiled: on CUDA, unless the settings say otherwise."""
    if settings.compile is False or settings.temperature > 0 or settings.beams(engine.config) > 1:
        return False
    # with 8 bits the number of outliers is only known at run time
    return engine.device.type == "cuda" and engine.llama.bits != 8


def warm_up(engine: Engine, settings: Decoding) -> None:
    """Compile decoding for one report at a time, if it is compiled at all, on a black image."""
    import numpy as np

    if not compiles(engine, settings):
        return
    black = np.zeros((engine.recipe.size, engine.recipe.size), np.uint8)
    embeds, mask, _ = prepare(engine, [black] * settings.study.images, settings)
    tokens = _tokens(engine, embeds, mask, settings)
    for _ in islice(tokens, 2):  # the first token comes without the compiled step
        pass


def _generate_in_slots(
    engine: Engine,
    images: Sequence[npt.NDArray[np.uint8]],
    settings: Decoding,
    studies: Sequence[Study],
    slots: int,
) -> list[Draft]:
    looks = list[Look]()
    starts = list(accumulate((study.images for study in studies), initial=0))

    def prompts() -> Iterator[torch.Tensor]:
        for at in range(0, len(studies), slots):
            some = studies[at : at + slots]
            embeds, mask, seen = prepare(engine, images[starts[at] : starts[at + len(some)]], settings, some)
            looks.extend(seen)
            yield from without_padding(embeds, mask)

    prompt = engine.config.conversation.with_instruction(settings.prompt)
    longest = max(engine.length(prompt.with_study(study)) for study in set(studies))
    rows: list[list[int]] = [[] for _ in studies]
    for row, token in chain.from_iterable(_decode_in_slots(engine, prompts(), longest, settings, slots)):
        rows[row].append(token)
    return [draft(engine, row, look, settings) for row, look in zip(rows, looks, strict=True)]


@torch.inference_mode()
def _decode_in_slots(
    engine: Engine, prompts: Iterator[torch.Tensor], longest: int, settings: Decoding, slots: int
) -> Iterator[Tokens]:
    """Decode greedily as ``_decode`` does, by the compiled step; ``longest`` is the longest prompt's length."""
    steps = settings.longest(engine.config)
    with engine.slots_in_use():
        decoder = engine.decoder(slots, longest + steps)
        yield from decoder(prompts, steps, engine.tokens.ids.eos)


def without_padding(embeds: torch.Tensor, mask: torch.Tensor | None) -> Iterator[torch.Tensor]:
    """Yield each row of a batch that is padded on the left, [L, D], without its padding."""
    lengths = [embeds.shape[1]] * len(embeds) if mask is None else mask.sum(1).tolist()
    yield from (row[len(row) - length :] for row, length in zip(embeds, lengths, strict=True))


def _tokens(
    engine: Engine,
    embeds: torch.Tensor,
    mask: torch.Tensor | None,
    settings: Decoding,
    dropped: Container[int] = (),
) -> Iterator[Tokens]:
    """Decode greedily or by sampling, in the fastest way."""
    if compiles(engine, settings):
        return _decode_in_slots(engine, without_padding(embeds, mask), embeds.shape[1], settings, len(embeds))
    return _decode(engine, embeds, mask, settings, dropped=dropped)


def _decode(
    engine: Engine, embeds: torch.Tensor, mask: torch.Tensor | None, settings: Decoding, every: int | None = None,
    dropped: Container[int] = (),
) -> Iterator[Tokens]:  # fmt: skip
    """Yield the next tokens of all rows; see :func:`decode`."""
    longest, tokens = settings.longest(engine.config), engine.tokens
    return decode(
        engine.llama, embeds, mask, longest, tokens.ids.eos, suppressed=tokens.suppressed,
        temperature=settings.temperature, seed=settings.seed, every=every, dropped=dropped,
    )  # fmt: skip


@torch.inference_mode()
def decode(
    llama: Llama,
    embeds: torch.Tensor,
    mask: torch.Tensor | None,
    longest: int,
    eos: int,
    *,
    suppressed: Sequence[int] = (),
    temperature: float = 0.0,
    seed: int = 0,
    every: int | None = None,
    dropped: Container[int] = (),
) -> Iterator[Tokens]:
    """Yield the next tokens of all rows until all have ended.

    A row that has ended or is dropped leaves the batch, and the last row takes its place. On CUDA, tokens are looked at
    every few steps (``every``), since that waits for the device; the first one at once.

    Args:
        llama: language model.
        embeds: [B, L, D], padded on the left.
        mask: [B, L] bool, False on padding; None without padding.
        longest: largest number of tokens of a row.
        eos: end token.
        suppressed: ids that are never generated.
        temperature: 0 takes the likeliest token.
        seed: of the sampling, the same for each row.
        every: steps between looks at the tokens; None is the device's usual.
        dropped: numbers of rows that nobody waits for any more.
    """
    batch, length, _ = embeds.shape
    every = every or (EVERY if llama.device.type == "cuda" else 1)
    cache = llama.cache(batch, length + longest)
    never = torch.tensor(list(suppressed), dtype=torch.long, device=llama.device)
    generators = [torch.Generator().manual_seed(seed) for _ in range(batch)] if temperature > 0 else None
    rows, done = list(range(batch)), list[torch.Tensor]()
    start = 0
    for step in range(longest):
        logits = llama(embeds, cache, start, mask)
        start += embeds.shape[1]
        if len(never):
            logits.index_fill_(1, never, -torch.inf)
        tokens = logits.argmax(-1) if generators is None else _sample(logits, temperature, generators)
        done.append(tokens)
        if step % every == 0 or step == longest - 1:
            new, left = Tokens(), []
            for at, written in enumerate(torch.stack(done, 1).tolist()):
                end = written.index(eos) + 1 if eos in written else len(written)
                new += [(rows[at], token) for token in written[:end]]
                if eos not in written and rows[at] not in dropped:
                    left.append(at)
            yield new
            done.clear()
            if not left:
                return
            if len(left) < len(rows):
                order = _without_gaps(left)
                cache.move(order)
                cache, chosen = cache.rows(slice(len(order))), torch.tensor(order, device=llama.device)
                tokens, mask = tokens[chosen], None if mask is None else mask[chosen]
                rows, generators = [rows[at] for at in order], generators and [generators[at] for at in order]
        embeds = torch.nn.functional.embedding(tokens, llama.embedding)[:, None]
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)


def _without_gaps(left: Sequence[int]) -> list[int]:
    """Order the numbers in ``left`` so that as many as possible keep their place and the last ones fill the gaps."""
    kept, moved = set(left[:]), list(left)
    return [at if at in kept else moved.pop() for at in range(len(left))]


def _sample(logits: torch.Tensor, temperature: float, generators: Sequence[torch.Generator]) -> torch.Tensor:
    """Draw one token per row, each with its own generator, so that a report does not depend on its batch."""
    probs = (logits / temperature).softmax(-1).cpu()
    drawn = [torch.multinomial(row, 1, generator=rng) for row, rng in zip(probs, generators, strict=True)]
    return torch.cat(drawn).to(logits.device)


def _beam_search(
    engine: Engine, embeds: torch.Tensor, mask: torch.Tensor | None, settings: Decoding
) -> list[list[int]]:
    attention = torch.ones(embeds.shape[:2], dtype=torch.long, device=engine.device) if mask is None else mask.long()
    with torch.inference_mode():
        rows: torch.Tensor = engine.language_model().generate(
            inputs_embeds=embeds,
            attention_mask=attention,
            num_beams=settings.beams(engine.config),
            max_new_tokens=settings.longest(engine.config),
            suppress_tokens=list(engine.tokens.suppressed) or None,
        )
    eos = engine.tokens.ids.eos
    return [
        list(row) if eos in row else [token for token in row if token != engine.tokens.ids.pad] for row in rows.tolist()
    ]
