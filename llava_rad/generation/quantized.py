"""Linear layers with weights of 8 or 4 bits, by bitsandbytes: LLM.int8() and NF4.

The settings are transformers': 8 bits with a scale per row, inputs above 6 multiplied in 16 bits (Dettmers et al. 2022,
arXiv 2208.07339); 4 bits in blocks of 64 (Dettmers et al. 2023, arXiv 2305.14314), scales in float32.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from typing import Any

from torch import Tensor

from encoder.errors import LlavaRadError
from encoder.hub import refused_packages

BITS = {"8bit": 8, "4bit": 4}
"""Bits of a weight, by the name of the type."""
OUTLIER = 6.0
BLOCK = 64


class QuantizedLinear:
    """Linear layer ``x @ weight.T`` with a quantised weight.

    Args:
        weight: [out, in], on the device of the computation and in the type of its results.
        bits: 8 or 4.

    Raises:
        LlavaRadError: if bitsandbytes is not installed, or does not support this device.
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
                layer.weight = whole.to(weight.device)  # quantises
                # the layout for AVX-512 exists for these sizes only; bitsandbytes has a plain kernel for others
                layer.support_avx512bf16_for_cpu &= rows % 32 == 0 and columns % BLOCK == 0
        except (RuntimeError, NotImplementedError, AttributeError) as error:
            raise LlavaRadError(
                f"bitsandbytes cannot keep weights in {bits} bits on {weight.device.type} ({type(error).__name__})",
                hint="use another --dtype, or --device cpu",
            ) from error
        self._layer = layer.eval()  # training mode would keep 4-bit weights out of the AVX-512 layout

    def __call__(self, inputs: Tensor) -> Tensor:
        """Map [..., in] to [..., out]."""
        result: Tensor = self._layer(inputs)
        return result.to(inputs.dtype)

    def added_to(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        """Return ``hidden`` plus the result; ``hidden`` may be overwritten."""
        return hidden.add_(self(inputs))

    @property
    def weight(self) -> Tensor:
        """Not available: the unquantised weight is gone.

        Raises:
            LlavaRadError: always.
        """
        raise LlavaRadError("beam search needs the model's whole weights", hint="use --num-beams 1, or another --dtype")

    def tensors(self) -> Iterator[Tensor]:
        """Yield the tensors that every product reads."""
        weight = self._layer.weight
        yield weight
        if hasattr(weight, "quant_state"):  # 4 bits; 8-bit steps are never compiled
            yield weight.quant_state.absmax


@cache
def _bitsandbytes() -> Any:
    """Import bitsandbytes without the package ``kernels``, by which it would load a CPU kernel from the hub."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        with refused_packages("kernels"):
            import bitsandbytes
    except ImportError as error:
        raise LlavaRadError(
            "8- and 4-bit weights need the package bitsandbytes", hint="pip install 'llava-rad[quantized]'"
        ) from error
    return bitsandbytes
