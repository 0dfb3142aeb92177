"""Linear layers whose weights are kept in 8 or 4 bits, by bitsandbytes: LLM.int8() and NF4.

Numbers as transformers sets them: 8 bits row by row, inputs above 6 apart in 16 bits (Dettmers et al. 2022, arXiv
2208.07339); 4 bits in blocks of 64 (Dettmers et al. 2023, arXiv 2305.14314), scales in float32.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

from torch import Tensor

from encoder.errors import LlavaRadError

BITS = {"8bit": 8, "4bit": 4}
"""Names of the types and how many bits a weight has in them."""
OUTLIER = 6.0
BLOCK = 64


class QuantizedLinear:
    """``x @ weight.T`` with a rounded weight.

    Args:
        weight: [out, in], on the device of the products and in the type of their results.
        bits: 8 or 4.

    Raises:
        LlavaRadError: bitsandbytes is not installed, or has nothing for this device.
    """

    def __init__(self, weight: Tensor, bits: int) -> None:
        package = _bitsandbytes()
        rows, columns = weight.shape
        try:
            if bits == 8:
                layer = package.nn.Linear8bitLt(
                    columns, rows, bias=False, has_fp16_weights=False, threshold=OUTLIER, device="meta"
                )
                codes, scales, _ = package.functional.int8_vectorwise_quant(weight.half())
                kept = {"requires_grad": False, "has_fp16_weights": False, "CB": codes, "SCB": scales}
                layer.weight = package.nn.Int8Params(codes, **kept)
            else:
                kind = {"quant_type": "nf4", "compress_statistics": False}
                layer = package.nn.Linear4bit(
                    columns, rows, bias=False, compute_dtype=weight.dtype, device="meta", **kind
                )
                whole = package.nn.Params4bit(weight, requires_grad=False, blocksize=BLOCK, module=layer, **kind)
                layer.weight = whole.to(weight.device)  # this rounds
                # the layout for AVX-512 exists for such sizes only; others are multiplied by bitsandbytes' plain way
                layer.support_avx512bf16_for_cpu &= rows % 32 == 0 and columns % BLOCK == 0
        except (RuntimeError, NotImplementedError, AttributeError) as error:
            raise LlavaRadError(
                f"bitsandbytes cannot keep weights in {bits} bits on {weight.device.type} ({type(error).__name__})",
                hint="use another --dtype, or --device cpu",
            ) from error
        self._layer = layer.eval()  # in training mode bitsandbytes does not lay 4-bit weights out for AVX-512

    def __call__(self, inputs: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        result: Tensor = self._layer(inputs)
        return result.to(inputs.dtype)

    @property
    def weight(self) -> Tensor:
        """Never given: the whole weight is gone.

        Raises:
            LlavaRadError: always.
        """
        raise LlavaRadError("beam search needs the model's whole weights", hint="use --num-beams 1, or another --dtype")

    def tensors(self) -> Iterator[Tensor]:
        """What every product reads."""
        weight = self._layer.weight
        yield weight
        if hasattr(weight, "quant_state"):  # 4 bits; steps in 8 bits are never compiled, which is what this is for
            yield weight.quant_state.absmax


@cache
def _bitsandbytes() -> Any:
    """The package, kept from fetching code: where ``kernels`` is installed it loads a CPU kernel from the hub."""
    before = sys.modules.get("kernels")
    sys.modules["kernels"] = None  # type: ignore[assignment]
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        import bitsandbytes
    except ImportError as error:
        raise LlavaRadError(
            "8- and 4-bit weights need the package bitsandbytes", hint="pip install 'llava-rad[quantized]'"
        ) from error
    finally:
        if before is None:
            del sys.modules["kernels"]
        else:
            sys.modules["kernels"] = before
    return bitsandbytes
