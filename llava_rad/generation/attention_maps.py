"""Attention maps over the patches of an image, of the language model and of the encoder. They prove no finding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import torch

from encoder.backbones.dinov2 import VisionTransformer
from encoder.errors import ConfigError, LlavaRadError
from llava_rad.generation.decoding import prepare
from llava_rad.generation.options import Decoding
from llava_rad.model.prompt import encode_text
from llava_rad.model.templates import FRONTAL_ONLY, Study

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from encoder.preprocessing import Recipe
    from llava_rad.generation.engine import Engine

    Map = npt.NDArray[np.float32]

SENTENCE_NOTE: Final = (
    "Where the model looked while it wrote this sentence, more than for its other sentences: attention of the language "
    "model to patches of the image. It is not proof of a finding."
)
ENCODER_NOTE: Final = (
    "Where the encoder looked: attention of its summary token to patches of the image. It is not proof of a finding."
)
_CUT: Final = 0.02
"""Share of the highest patches, which are all shown as 1. Attention has sinks: single patches in the black corners of
the example image have six times their even share of the encoder's, and would hide everything else."""
_NOTHING: Final = 1e-6
"""Shares of attention below this are rounding errors: a patch's even share of 37 x 37 is 7e-4."""


def attention_by_sentence(
    engine: Engine, image: npt.NDArray[np.uint8], sentences: Sequence[str], *, prompt: str | None = None,
    study: Study = FRONTAL_ONLY, others: Sequence[npt.NDArray[np.uint8]] = (),
    wanted: Callable[[], bool] = lambda: True,
) -> Map:  # fmt: skip
    """Compute the language model's attention to the image while it writes each sentence of a report.

    One pass over prompt, image and text is made. A sentence's map is the mean over its tokens and all heads of the last
    third of the layers: early layers attend to the last patches whatever the sentence (on the example image the maps of
    two sentences correlate by 0.98 and more in the first layer, by 0.2 to 0.6 in the last). The mean of all sentences
    is subtracted: corners and single patches always draw attention (Darcet et al. 2024 for encoders, Xiao et al. 2024
    for language models) and would pass for evidence. The map of a report's only sentence still contains them.

    Args:
        engine: the model.
        image: [S, S], prepared by the model's recipe.
        sentences: the report; another model may have written it.
        prompt: instruction in place of the checkpoint's own.
        study: study inputs of the report; boxes are not part of the sentences.
        others: lateral and prior image of the study. The maps are of the frontal one.
        wanted: returns False if nobody waits for the maps any more; looked at before each layer.

    Returns:
        A map for each sentence, [number, side, side], from 0 to 1; all 0 if it does not exceed the mean anywhere.

    Raises:
        LlavaRadError: if there is no sentence, they do not fit the model's context, or are no longer wanted.
    """
    import numpy as np

    if not sentences or not all(sentence.strip() for sentence in sentences):
        raise LlavaRadError("there is no text to show evidence for")
    pieces = [torch.tensor(encode_text(engine.tokens.tokenizer, sentence)) for sentence in sentences]
    tokens = torch.cat(pieces).to(engine.device)
    settings = Decoding(max_new_tokens=len(tokens), prompt=prompt, study=study)
    embeds, *_ = prepare(engine, [image, *others], settings)
    start, patches = _image_span(engine, prompt, study)
    words = torch.nn.functional.embedding(tokens, engine.llama.embedding)[None]
    # a token is chosen by the position before it
    rows = slice(embeds.shape[1] - 1, embeds.shape[1] - 1 + len(tokens))
    attention = engine.llama.attention(torch.cat([embeds, words.to(embeds.dtype)], dim=1), rows)
    layers = []
    for layer in attention:
        if not wanted():
            raise LlavaRadError("nobody waits for the map any more")
        layers.append(layer[:, :, start : start + patches].mean(0))
    late = torch.stack(layers[-max(1, len(layers) // 3) :]).mean(0)
    maps = torch.stack([part.mean(0) for part in late.split([len(piece) for piece in pieces])])
    maps = maps / maps.sum(-1, keepdim=True).clamp(min=1e-12)
    if len(maps) > 1:
        maps = (maps - maps.mean(0)).clamp(min=0)
    side = round(patches**0.5)
    found: Map = _to_one(maps).unflatten(-1, (side, side)).cpu().numpy().astype(np.float32)
    return found


def encoder_attention(engine: Engine, image: npt.NDArray[np.uint8]) -> Map:
    """Compute the attention of the encoder's CLS token in its last layer, mean of the heads.

    Args:
        engine: the model.
        image: [S, S], prepared by the model's recipe.

    Returns:
        [side, side], from 0 to 1.

    Raises:
        ConfigError: if the encoder is not a DINOv2.
    """
    import numpy as np

    if not isinstance(engine.vision, VisionTransformer):
        raise ConfigError("this model's encoder gives no attention map")
    pixel_values = engine.recipe.normalise(image[None]).to(engine.device)
    mean = engine.vision.cls_attention(pixel_values)[0].mean(0)
    found: Map = _to_one(mean.flatten()[None])[0].view_as(mean).cpu().numpy().astype(np.float32)
    return found


def box(recipe: Recipe, height: int, width: int) -> tuple[float, float, float, float]:
    """Compute the part of an image inside the recipe's square: left, top, width, height as shares of the image.

    Args:
        recipe: preprocessing recipe.
        height: height of the image in pixels.
        width: width of the image in pixels.
    """
    if recipe.pad_to is not None:  # the longest side fits, bars fill the square
        longest = max(height, width)
        return (width - longest) / 2 / width, (height - longest) / 2 / height, longest / width, longest / height
    shown = min(height, width) * recipe.size / recipe.side
    return (width - shown) / 2 / width, (height - shown) / 2 / height, shown / width, shown / height


def _image_span(engine: Engine, prompt: str | None, study: Study) -> tuple[int, int]:
    """First position and number of the frontal image's tokens."""
    conversation = engine.config.conversation.with_instruction(prompt).with_study(study)
    before, *_ = conversation.pieces(engine.tokens.tokenizer, engine.tokens.ids.bos)
    return len(before), engine.config.image_tokens


def _to_one(maps: torch.Tensor) -> torch.Tensor:
    """Scale each map [..., N] to 0 to 1; the highest values are clipped."""
    maps = maps.float()
    top = maps.quantile(1 - _CUT, dim=-1, keepdim=True)
    return (maps / top.clamp(min=_NOTHING)).clamp(0, 1)
