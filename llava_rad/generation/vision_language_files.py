"""Loading of models of transformers' image-text-to-text class: no code of a repository is run, no pickle read.

Every tensor must be there and none left over, and each file is part of the model's SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

from encoder.backbones.base import first_line
from encoder.backbones.weight_files import StoredTensors, read_json, shards
from encoder.errors import ConfigError, LlavaRadError, ModelError
from encoder.files import Digests
from encoder.hub import fetch, refused_packages
from llava_rad.generation.engine import choose_device, choose_dtype
from llava_rad.generation.options import GenerationOptions
from llava_rad.generation.profiles import Profile
from llava_rad.generation.quantized import BITS, BLOCK, OUTLIER
from llava_rad.generation.vision_language import VisionLanguageModel

FILES: Final = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
"""Files of a repository that are read, as glob patterns."""
WEIGHTS: Final = "model.safetensors"
PARTS: Final = {
    "image processor": ("preprocessor_config.json", "processor_config.json"),
    "tokenizer": ("tokenizer.json", "*.model", "vocab.*", "tekken.json"),
}
"""Parts of a processor, and the files of each, one of which must be there."""
PLAIN: Final = ("PaliGemmaProcessor",)
"""Processors of models that answer images and words without the turns of a chat."""
_SAMPLING: Final = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


class FoundVisionLanguage:
    """A model of transformers' image-text-to-text class, by folder or repository.

    Args:
        source: folder, or hub repository.
        description: contents of its ``config.json``.
        profile: of the model.
        revision: branch, tag or commit of a hub repository.
        offline: never ask the hub.

    Attributes:
        config: the profile.
        name: of the model in reports.
    """

    remote = False

    def __init__(
        self, source: str | Path, description: Mapping[str, Any], profile: Profile, *, revision: str | None = None,
        offline: bool = False,
    ) -> None:  # fmt: skip
        self.config, self.description = profile, description
        self.name = Path(source).resolve().name if Path(source).is_dir() else str(source)
        self._source, self._revision, self._offline = source, revision, offline

    def folder(self) -> Path:
        """Return the local folder; a repository is fetched.

        Raises:
            ModelError: if it cannot be found or fetched, needs code of its own, or transformers has no class for it.
        """
        what = f"the model {self.name}"
        refuse_code(self.description, "config.json", what)
        refuse_other_classes(self.description, what)
        return fetch(self._source, revision=self._revision, offline=self._offline, patterns=FILES)

    def verify(self, digests: Digests | None = None) -> str:
        """Check the files of the weights, and return a SHA-256 over all files and the profile.

        Raises:
            ModelError: as ``folder`` and :func:`check_files`.
        """
        folder = self.folder()
        return _digest(folder, check_files(folder, f"the model {self.name}"), self.config, digests or Digests())

    def load(self, options: GenerationOptions) -> VisionLanguageModel:
        """Fetch the files if necessary, check and load them.

        Raises:
            ModelError: if a file is missing or damaged, a tensor is missing or left over, the model needs code of its
                own, or transformers has no class for it.
            LlavaRadError: if there is no such device or type, or an option does not fit.
        """
        if options.vllm_python is not None:
            raise ConfigError("vLLM is given this project's checkpoints only", hint="leave --vllm-python out")
        options.check_certain()
        if options.compile:
            raise ConfigError("decoding is compiled for this project's checkpoints only", hint="leave --compile out")
        what = f"the model {self.name}"
        target, bits = choose_device(options.device), BITS.get(options.dtype)
        kind = choose_dtype("auto" if bits else options.dtype, target)
        digest, folder = self.verify(), self.folder()
        processor = load_processor(folder, self.config, what)
        network = load_network(folder, target, kind, bits, what)
        return VisionLanguageModel(
            network, processor, self.config, model_id=self.name, revision=self._revision, sha256=digest, bits=bits
        )


def refuse_code(config: Mapping[str, Any], file: str, what: str) -> None:
    """Refuse a configuration that names program code, a kernel of the hub, or weights of another package.

    Args:
        config: contents of a JSON file of the model.
        file: its name.
        what: name of the model in error messages.

    Raises:
        ModelError: if it does.
    """
    parts = [config, *(value for value in config.values() if isinstance(value, Mapping))]
    if any("auto_map" in part for part in parts):
        raise ModelError(
            f"{file} of {what} names program code of its own (auto_map), which is never run",
            hint="its publisher may have a version for transformers' own classes, often with a name that ends in -hf",
        )
    if config.get("quantization_config"):
        raise ModelError(
            f"{what} is quantised (quantization_config in {file}); only whole weights are read",
            hint="take its whole weights and --dtype 8bit or 4bit",
        )
    for part in parts:
        for key in ("attn_implementation", "_attn_implementation", "experts_implementation"):
            if "/" in str(part.get(key) or ""):
                raise ModelError(f"{file} of {what} names code of the hub ({key}), which is never run")


def refuse_other_classes(config: Mapping[str, Any], what: str) -> None:
    """Refuse models for which the installed transformers has no image-text-to-text class.

    Raises:
        ModelError: if it has none.
    """
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as CLASSES

    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in CLASSES:
        raise ModelError(
            f"transformers {transformers.__version__} has no image-text-to-text class for {what} of type {kind!r}",
            hint="a newer transformers may have one; a model of another class, or with code of its own, is not run",
        )


def check_files(folder: Path, what: str) -> list[Path]:
    """Check the files of a model before anything is loaded.

    Args:
        folder: of the model.
        what: name of the model in error messages.

    Returns:
        The files of its weights.

    Raises:
        ModelError: if a JSON file names code, there are no safetensors files, or they are not those of the index.
    """
    for path in sorted(folder.glob("*.json")):
        if path.name.endswith("config.json"):
            refuse_code(read_json(path, what), path.name, what)
    names = shards(folder, WEIGHTS, what)
    if not names:
        raise ModelError(
            f"{what} lacks {WEIGHTS}, or the index of its parts ({WEIGHTS}.index.json)"
            if any(folder.glob("*.safetensors"))
            else f"{what} has no weights in safetensors files ({WEIGHTS})",
            hint="files of other forms are not read",
        )
    if odd := [name for name in names if not name.endswith(".safetensors")]:
        raise ModelError(f"{WEIGHTS}.index.json of {what} names {odd[0]}; only safetensors files are read")
    if (folder / "adapter_config.json").is_file():
        raise ModelError(f"{what} holds an adapter (adapter_config.json)", hint="merge it into the weights with PEFT")
    paths = [folder / name for name in names]
    for path in paths:
        if not path.is_file():
            raise ModelError(f"{what} lacks its file {path.name}", hint="fetch or copy the model again")
    index = folder / f"{WEIGHTS}.index.json"
    if index.is_file():
        listed: dict[str, str] = read_json(index, what)["weight_map"]
        for path in paths:
            inside, named = (
                set(StoredTensors([path], what)),
                {name for name, file in listed.items() if file == path.name},
            )
            if differing := sorted(inside ^ named):
                where = "is not in" if differing[0] in named else "is not listed for"
                raise ModelError(f"{what}: the tensor {differing[0]} {where} {path.name}, unlike {index.name} says")
    return paths


def completed(folder: Path, what: str) -> dict[str, Any]:
    """Return the contents of ``config.json`` with the defaults of transformers' class.

    Raises:
        ModelError: if transformers does not read it.
    """
    from transformers import AutoConfig

    with _refused(f"config.json of {what} cannot be read"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        found: dict[str, Any] = config.to_dict()
    return found


def load_processor(folder: Path, profile: Profile, what: str) -> Any:
    """Load the processor of images and prompts; prompts are padded on the left.

    Raises:
        ModelError: if it cannot be loaded, or lacks image processor, tokenizer or chat template.
    """
    from transformers import AutoProcessor

    for part, patterns in PARTS.items():
        if not any(path.is_file() for pattern in patterns for path in folder.glob(pattern)):
            raise ModelError(
                f"{what} has no {part} ({' or '.join(patterns[:2])})", hint="fetch or copy the model again"
            )
    limits = {"min_pixels": profile.least_pixels, "max_pixels": profile.most_pixels}
    with _refused(f"the processor of {what} cannot be loaded"):
        processor = AutoProcessor.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True,
            **{name: value for name, value in limits.items() if value is not None},
        )  # fmt: skip
    if not hasattr(processor, "image_processor"):
        raise ModelError(f"{what} has no processor of images and prompts")
    if not getattr(processor, "chat_template", None) and type(processor).__name__ not in PLAIN:
        raise ModelError(f"{what} has no chat template (chat_template.jinja)", hint="fetch or copy the model again")
    tokenizer = getattr(processor, "tokenizer", processor)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return processor


def load_network(folder: Path, device: torch.device, dtype: torch.dtype, bits: int | None, what: str) -> Any:
    """Load the model strictly, with greedy decoding as its default.

    Args:
        folder: of the model.
        device: of the computation.
        dtype: of the weights, and of the computation if they are quantised.
        bits: 8 or 4 for the linear layers of the language model, or None.
        what: name of the model in error messages.

    Raises:
        ModelError: if a tensor is missing, left over or misshapen, or the files cannot be loaded.
        LlavaRadError: if bitsandbytes is not installed.
    """
    from transformers import AutoModelForImageTextToText

    more = {} if bits is None else {"quantization_config": _quantization(folder, bits, dtype, what)}
    absent = ("kernels", "flash_attn") if bits else ("kernels", "flash_attn", "bitsandbytes")
    with _refused(f"{what} cannot be loaded"), refused_packages(*absent):
        network, found = AutoModelForImageTextToText.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True, use_safetensors=True, dtype=dtype,
            device_map={"": device}, output_loading_info=True, ignore_mismatched_sizes=True, **more,
        )  # fmt: skip
    for kind, names in (("lacks", found["missing_keys"]), ("has left over", found["unexpected_keys"])):
        if names:
            raise ModelError(f"{what} {kind} {len(names)} tensors, for example {sorted(names)[0]}")
    if odd := found["mismatched_keys"]:  # they are refused here: transformers' own message names none
        raise ModelError(f"{what} has {len(odd)} tensors of another shape, for example {min(name for name, *_ in odd)}")
    if odd := found.get("error_msgs"):
        raise ModelError(f"{what} cannot be loaded: {odd[0]}")
    for module in network.modules() if bits == 4 else ():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # as in QuantizedLinear: other sizes have a plain kernel
            fits = module.out_features % 32 == 0 and module.in_features % BLOCK == 0
            module.support_avx512bf16_for_cpu &= fits
    decoding = network.generation_config
    decoding.do_sample = False
    for name in _SAMPLING:
        setattr(decoding, name, None)
    decoding.max_length = None  # max_new_tokens is always given
    return network.eval()


def _quantization(folder: Path, bits: int, dtype: torch.dtype, what: str) -> Any:
    """Make the settings of bitsandbytes: those of this project's checkpoints, for the language model's layers alone."""
    from transformers import AutoConfig, AutoModelForImageTextToText, BitsAndBytesConfig

    with refused_packages("kernels"):
        try:
            import bitsandbytes  # noqa: F401
        except ImportError as error:
            raise LlavaRadError(
                "8- and 4-bit weights need the package bitsandbytes", hint="pip install 'llava-rad[quantized]'"
            ) from error
    with _refused(f"{what} cannot be loaded"), torch.device("meta"), refused_packages():
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        empty = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    kept = _outside(empty)
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=OUTLIER, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=kept
    )


def _outside(network: Any) -> list[str]:
    """Return the names of the modules that are no part of the language model's layers: tower, projector, head."""
    decoder = network.get_decoder()
    name = next((name for name, module in network.named_modules() if module is decoder and name), "")
    names, at, prefix = list[str](), network, ""
    for part in filter(None, name.split(".")):
        names += [prefix + child for child, _ in at.named_children() if child != part]
        at, prefix = getattr(at, part), f"{prefix}{part}."
    return names


@contextmanager
def _refused(message: str) -> Iterator[None]:
    """Raise ``ModelError`` in one line for whatever transformers raises, and show none of its progress bars.

    Raises:
        ModelError: for an error of the block; memory errors of the device pass.
    """
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    except LlavaRadError:
        raise
    except Exception as error:  # transformers raises errors of many types for damaged files
        if type(error).__name__ == "OutOfMemoryError":
            raise LlavaRadError("the device's memory does not hold the model", hint="--dtype 4bit, or a CPU") from None
        raise ModelError(f"{message}: {first_line(error).rstrip(' :')} ({type(error).__name__})") from error
    finally:
        if bars:
            logging.enable_progress_bar()


def _digest(folder: Path, weights: Sequence[Path], profile: Profile, digests: Digests) -> str:
    """Hash the files of a model and its profile: other weights, words or cuts are another model."""
    others = (path for pattern in ("*.json", "*.jinja", "*.txt", "*.model") for path in folder.glob(pattern))
    paths = sorted({*weights, *others})
    found = {path.name: digest for path, digest in zip(paths, digests.of(paths), strict=True)}
    stated = {"files": found, "profile": profile.model_dump(mode="json", exclude={"licence", "source", "tried"})}
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()
