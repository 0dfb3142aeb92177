"""Count the kernels of one token written by a language model of Vicuna-7B's shape; no weights, no GPU.

    python -m scripts.bench.decode_causes [--rows 1] [--json FILE]

Operators are counted on the device ``meta`` in bfloat16. Views, and memory that is only allocated, are no kernels;
RMSNorm and attention are one each, as on CUDA. What the count leaves out: kernels that a GPU starts within one
operator, such as both halves of a split product.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from scripts.bench.harness import Report, parser
from scripts.bench.random_parts import REAL, Size, configuration, shapes

if TYPE_CHECKING:
    from llava_rad.generation.llama import Llama

_ALLOCATIONS = ("aten.empty", "aten.new_empty", "aten.empty_like", "aten.empty_strided", "aten._unsafe_view")


def without_weights(size: Size) -> Llama:
    """Our form of the model on the device ``meta``, in bfloat16."""
    import torch

    from llava_rad.generation.llama import Llama

    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes(size).items()}
    return Llama(configuration(size), tensors, device="meta", dtype=torch.bfloat16)


def kernels(call: Callable[[], object]) -> Counter[str]:
    """Count the kernels of a call by operator."""
    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    found: Counter[str] = Counter()

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            aliases = [one.alias_info for one in func._schema.returns]
            view = any(alias is not None and not alias.is_write for alias in aliases)
            if not view and not str(func).startswith(_ALLOCATIONS):
                found[str(func).removeprefix("aten.")] += 1
            return func(*args, **(kwargs or {}))

    class Fused(TorchFunctionMode):
        """Operators that are one kernel on CUDA, and several on other devices."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = getattr(func, "__name__", "")
            if name in ("rms_norm", "scaled_dot_product_attention"):
                found[name] += 1
                return torch.empty_like(args[0])
            return func(*args, **(kwargs or {}))

    # in inference mode composite operators would arrive whole
    with torch.no_grad(), Fused(), Count():  # type: ignore[no-untyped-call]
        call()
    return found


def token(size: Size, rows: int = 1, before: int = 1409) -> Counter[str]:
    """Count the kernels of one more token of each row, from token ids to token ids, without padding."""
    import torch

    llama = without_weights(size)
    tokens = torch.empty(rows, dtype=torch.long, device="meta")
    cache = llama.cache(rows, before + 150)

    def step() -> torch.Tensor:
        embeds = torch.nn.functional.embedding(tokens, llama.embedding)[:, None]
        return llama(embeds, cache, before).argmax(-1)

    return kernels(step)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the counts."""
    made = parser(__doc__, quick="two layers")
    made.add_argument("--rows", type=int, default=1, help="reports at a time")
    options = made.parse_args(argv)
    size = Size(layers=2) if options.quick else REAL
    report, found = Report(options), token(size, options.rows)
    report.table("kernels", {"number": "d"}, f"kernels a token, {size.layers} layers")
    for name, number in [*found.most_common(), ("all", found.total())]:
        report.row(name, {"number": number})
    report.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
