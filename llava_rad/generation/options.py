"""Options of report generation: the one list behind the command line, the Python interface and the review application.

Names, defaults, ranges and explanations are stated here and nowhere else; ``llava_rad.commands.options`` turns the
fields into command-line options. Nothing heavy is imported.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from encoder.errors import ConfigError
from llava_rad.generation.abstention import Unsure
from llava_rad.model.templates import FRONTAL_ONLY, Study

if TYPE_CHECKING:
    from llava_rad.generation.report_model import Description

DType = Literal["auto", "float32", "bfloat16", "float16"]
Precision = Literal["auto", "float32", "bfloat16", "float16", "8bit", "4bit"]


@dataclass(frozen=True)
class CommandLine:
    """Presentation of a field on the command line, and the range that it is held to everywhere.

    Attributes:
        panel: heading of the help text under which the option stands.
        minimum: lowest number allowed.
        maximum: highest number allowed.
        choices: texts allowed.
        kind: type of the argument, if it is not the field's own.
        metavar: placeholder of the argument in the help text.
        file: the option names a text file; its content is the value.
    """

    panel: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    kind: type | None = None
    metavar: str | None = None
    file: bool = False


def option(default: Any, panel: str, **presentation: Any) -> Any:
    """Declare a field of a dataclass of options; see :class:`CommandLine` for ``presentation``."""
    return dataclasses.field(default=default, metadata={"cli": CommandLine(panel, **presentation)})


def check_ranges(options: Any) -> None:
    """Check every field of a dataclass of options against its range.

    Raises:
        ConfigError: if a value is outside its range or not among its choices.
    """
    for field in dataclasses.fields(options):
        shown: CommandLine | None = field.metadata.get("cli")
        value = getattr(options, field.name)
        if shown is None or value is None:
            continue
        if shown.minimum is not None and not value >= shown.minimum:
            raise ConfigError(f"{field.name} must be at least {shown.minimum:g}, not {value}")
        if shown.maximum is not None and not value <= shown.maximum:
            raise ConfigError(f"{field.name} must be at most {shown.maximum:g}, not {value}")
        if shown.choices and value not in shown.choices:
            raise ConfigError(f"there is no {field.name} {value!r}", hint=f"choose one of {', '.join(shown.choices)}")


@dataclass(frozen=True)
class Decoding:
    """Options of decoding: how tokens are chosen.

    Attributes:
        max_new_tokens: Longest report in tokens. Default: the checkpoint's own, 150.
        num_beams: Number of beams of a beam search. Default: the checkpoint's own, 1 (greedy).
        temperature: 0 takes the likeliest token; 0.01 to 100 samples.
        seed: Seed of the sampling; each image is sampled on its own.
        prompt: Instruction in place of the checkpoint's own.
        compile: Compile greedy decoding on CUDA, once for a model (compiled kernels are kept in
            TORCHINDUCTOR_CACHE_DIR, default llava-rad/compiled in the user's cache). Default: on CUDA.
        unsure: Findings whose probability is between their two levels: written (left as the model wrote them),
            unsaid, or stated (replaced by "cannot be judged"). Needs a checkpoint with findings.safetensors.
        study: Images and texts that each report is written from besides a frontal image.

    Raises:
        ConfigError: if a value is out of its range, or a beam search is to sample.
    """

    max_new_tokens: int | None = option(None, "Decoding", minimum=1)
    num_beams: int | None = option(None, "Decoding", minimum=1)
    temperature: float = option(0.0, "Decoding", minimum=0.0, maximum=100.0)
    seed: int = option(0, "Decoding")
    prompt: str | None = option(None, "Decoding")
    compile: bool | None = option(None, "Decoding")
    unsure: Unsure = option("written", "Decoding", choices=get_args(Unsure), metavar="HOW")
    study: Study = FRONTAL_ONLY

    def __post_init__(self) -> None:
        check_ranges(self)
        if 0 < self.temperature < 0.01:  # logits divided by less may overflow
            raise ConfigError(f"temperature must be 0 or at least 0.01, not {self.temperature}")
        if self.temperature > 0 and (self.num_beams or 1) > 1:
            raise ConfigError("beam search does not sample", hint="use one beam, or temperature 0")

    def longest(self, config: Description) -> int:
        """Longest report in tokens: ``max_new_tokens``, or the checkpoint's default.

        The default grows by half if boxes are asked for, as in MAIRA-2's model card (300 tokens, 450 with boxes).
        """
        usual = config.generation.max_new_tokens
        return self.max_new_tokens or (usual + usual // 2 if self.study.grounded else usual)

    def check_certain(self) -> None:
        """Refuse a removal of uncertain findings, for models without probabilities of findings.

        Raises:
            ConfigError: if one is requested.
        """
        if self.unsure != "written":
            raise ConfigError(
                f"unsure = {self.unsure} is for checkpoints with probabilities of findings",
                hint="use unsure = written",
            )

    def beams(self, config: Description) -> int:
        """Number of beams: ``num_beams``, or the checkpoint's default.

        Raises:
            ConfigError: if the default is a beam search, and a temperature is given.
        """
        beams = self.num_beams or config.generation.num_beams
        if self.temperature > 0 and beams > 1:
            raise ConfigError(
                f"the checkpoint's default is a beam search ({beams} beams), which does not sample",
                hint="use num_beams 1, or temperature 0",
            )
        return beams


@dataclass(frozen=True)
class GenerationOptions(Decoding):
    """All options of report generation: model, reading of the images, decoding and output.

    Attributes:
        model: Checkpoint, or another model of transformers' image-text-to-text class (docs/published-models.md): a
            folder, a hub repository owner/name, or openai:URL#NAME, the model NAME of an OpenAI-compatible server
            (docs/service.md). Default: the embedded demonstration model.
        revision: Branch, tag or commit of a hub repository.
        profile: Prompt, images and cut of the answer of a model that others trained: a name ('llava-rad doctor' lists
            them) or a YAML file. Default: by the model's repository, else generic.
        allow_remote: Send pixels and prompts to a model's server on another machine.
        server_timeout: Seconds that a model's server has for one report.
        offline: Never ask the hub (as HF_HUB_OFFLINE=1).
        device: auto (CUDA where there is one), cpu, cuda, cuda:1, mps.
        dtype: auto (bfloat16 on CUDA, else float32), float32, bfloat16, float16; 8bit, 4bit: the language model's
            layers in so few bits (needs bitsandbytes).
        batch_size: Images at a time.
        vllm_python: Python interpreter of an environment with vLLM, which then decodes (docs/vllm.md). Text is printed
            when it is complete.
        force: Read images that are refused as no frontal chest radiograph (lateral, other body part, for processing).
        frame: Frame of a multi-frame file, counted from 1.
        show_paths: Name inputs by path in results and messages. File names may identify a patient.

    Raises:
        ConfigError: if a value is out of its range, a beam search is to sample, or vLLM is asked for what it is not
            used for here.
    """

    model: str | Path | None = option(None, "Model", kind=str, metavar="DIR-OR-HUB-ID-OR-SERVER")
    revision: str | None = option(None, "Model")
    profile: str | None = option(None, "Model", metavar="NAME-OR-FILE")
    allow_remote: bool = option(False, "Model")
    server_timeout: float = option(600.0, "Model", minimum=0.1, maximum=86_400.0)
    offline: bool = option(False, "Model")
    device: str = option("auto", "Model")
    dtype: Precision = option("auto", "Model", choices=get_args(Precision), metavar="TYPE")
    batch_size: int = option(4, "Model", minimum=1)
    vllm_python: str | Path | None = option(None, "Model", kind=str, metavar="PYTHON")
    force: bool = option(False, "Input")
    frame: int | None = option(None, "Input", minimum=1)
    show_paths: bool = option(False, "Output")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vllm_python is None:
            return
        if self.temperature > 0 or (self.num_beams or 1) > 1:
            raise ConfigError("vLLM is asked for greedy reports only", hint="use one beam and temperature 0")
        if self.dtype in ("8bit", "4bit"):
            raise ConfigError(f"vLLM is given whole weights, not {self.dtype}", hint="use another --dtype")
