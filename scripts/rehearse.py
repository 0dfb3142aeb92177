"""Run every command on the paper's model at its real size with random weights; report time and memory.

    python -m scripts.rehearse [--device cuda] [--dtypes bfloat16,8bit,4bit] [--folder DIR] [--keep] [--format json]
    python -m scripts.rehearse --images 3 --dtypes 4bit

Writes an encoder as ``microsoft/rad-dino`` is published (ViT-B/14, 518 px) and a language model as
``lmsys/vicuna-7b-v1.5`` is (32,000 tokens, float16 in two .bin shards), then runs the commands of a user with the real
weights: ``assemble``, ``doctor --model``, and ``generate`` on one image in each type. Reports of random weights are
noise of full length. Then loads the model once more in each type, for the seconds of its parts.

Takes 28 GB of disk and, on a CPU, 20 GB of memory and a quarter of an hour. Seconds are wall seconds; memory is the
peak resident set of the process, which counts files that are mapped, and on CUDA the peak of torch's allocator.

``--images 3`` (or 2) writes no file: the model is drawn and quantised layer by layer, and writes reports of studies
with lateral, prior, prior report and indication by the template ``study``: of one image, of all with the further ones
pooled by 2 x 2, and of all tokens, positions scaled by 1.5.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.bench.random_parts import REAL, TINY, Drawn, Size

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from llava_rad.generation.engine import Engine
    from llava_rad.generation.options import Decoding

ROOT = Path(__file__).resolve().parents[1]
DTYPES = ("bfloat16", "8bit", "4bit")
COMMAND = (sys.executable, "-c", "from llava_rad.cli import main; main()")


def write_encoder(size: Size, folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` as ``microsoft/rad-dino`` has them."""
    import torch
    from transformers import Dinov2Model

    torch.manual_seed(0)
    Dinov2Model(size.dinov2_config()).save_pretrained(folder)


def write_language_model(size: Size, folder: Path, shards: int = 2) -> None:
    """Write float16 .bin shards, ``config.json`` and ``tokenizer.json`` of a Llama."""
    import torch

    config = size.llama_config(pad_token_id=0, architectures=["LlamaForCausalLM"], dtype=torch.float16)
    config.save_pretrained(folder)
    weights, weight_map = Drawn(size, "cpu", torch.float16), dict[str, str]()
    names = sorted(weights)
    for shard in range(shards):
        file, part = f"pytorch_model-{shard + 1:05d}-of-{shards:05d}.bin", names[shard::shards]
        torch.save({name: weights[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    _tokenizer(size.vocabulary).save(str(folder / "tokenizer.json"))


def _tokenizer(size: int) -> Any:
    """Tokenizer of Llama's form with ``size`` pieces: bytes and invented words."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    vocabulary |= {f"▁word{number}": number for number in range(len(vocabulary), size)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def write_image(path: Path) -> None:
    """Write an image of 1,024 pixels; its content does not matter to random weights."""
    import numpy as np
    from PIL import Image

    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 12)).astype(np.uint8))
    coarse.resize((1024, 1024), Image.Resampling.BICUBIC).save(path)


def called(*words: str | Path, fine: Sequence[int] = (0,)) -> dict[str, Any]:
    """Run ``llava-rad``; returns its output, seconds and peak memory.

    Raises:
        SystemExit: if it fails.
    """
    begin = time.perf_counter()
    process = subprocess.Popen(
        [*COMMAND, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout and process.stderr
    out, err = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) not in fine:
        raise SystemExit(f"llava-rad {words[0]} failed:\n{err}")
    return {"seconds": time.perf_counter() - begin, "peak_bytes": usage.ru_maxrss * 1024, "output": out}


def loaded(model: Path, image: Path, dtype: str, device: str, tokens: int) -> dict[str, Any]:
    """Load the model and write one report twice, in a process of its own."""
    words = ["--load", str(model), "--image", str(image), "--dtypes", dtype, "--device", device]
    found: dict[str, Any] = json.loads(_again(*words, "--tokens", str(tokens)))
    return found


def _again(*words: str) -> str:
    """Run this script in another process: the peak memory of a child is never less than its parent's was."""
    command = [sys.executable, "-m", "scripts.rehearse", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if done.returncode:
        raise SystemExit(done.returncode)  # its error is on stderr
    return done.stdout


def load(model: Path, image: Path, dtype: str, device: str, tokens: int) -> dict[str, Any]:
    """Load the model and write one report twice in this process; returns seconds of the parts, and memory."""
    from encoder.reader.sandbox import Reader
    from llava_rad.generation.engine import Engine
    from llava_rad.generation.options import Decoding

    begin = time.perf_counter()
    engine = Engine.from_pretrained(model, device=device, dtype=dtype, offline=True)
    _finish(engine.device)
    seconds = time.perf_counter() - begin
    with Reader() as reader:
        pixels = reader.prepare(image, engine.recipe).pixels
    written(engine, [pixels], Decoding(max_new_tokens=1))  # warms up
    return {"load_seconds": seconds} | written(engine, [pixels], Decoding(max_new_tokens=tokens))


def written(engine: Engine, images: Sequence[npt.NDArray[np.uint8]], settings: Decoding) -> dict[str, Any]:
    """Write one report; returns seconds of its parts, and the peak memory of this process so far."""
    import torch

    from llava_rad.generation.decoding import _decode, prepare
    from scripts.bench.harness import machine
    from scripts.bench.worker import peak_bytes

    begin, times = time.perf_counter(), []
    embeds, mask, _ = prepare(engine, images, settings)
    _finish(engine.device)
    image_seconds = time.perf_counter() - begin
    for _ in _decode(engine, embeds, mask, settings):
        times.append(time.perf_counter() - begin)
    on_card = engine.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if on_card else "{cores} x {processor}".format(**machine()),
        "torch": torch.__version__, "prompt_tokens": embeds.shape[1], "image_seconds": image_seconds,
        "first_token_seconds": times[0], "tokens": len(times),
        "tokens_per_second": (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else None,
        "report_seconds": times[-1],
        "peak_bytes": peak_bytes("cpu"), "cuda_bytes": torch.cuda.max_memory_allocated() if on_card else None,
    }  # fmt: skip


INDICATION = "Dyspnea and cough for three days, history of heart failure. Evaluate for edema or pneumonia."
PRIOR_REPORT = (
    "The heart is mildly enlarged. There is a small left pleural effusion with adjacent atelectasis. Mild interstitial "
    "edema. No pneumothorax. A right internal jugular catheter ends in the superior vena cava."
)


def draw(size: Size, images: int, dtype: str, device: str, tokens: int) -> dict[str, Any]:
    """Draw the model in this process and write reports of studies; returns costs by the form of their images.

    The form with the most tokens is the last one, since the peak of memory is that of the process so far.
    """
    from llava_rad.generation.engine import choose_device, choose_dtype
    from llava_rad.generation.options import Decoding
    from llava_rad.generation.quantized import BITS
    from llava_rad.model.config import FurtherImages
    from llava_rad.model.templates import Study
    from scripts.bench import random_parts

    bits, begin = BITS.get(dtype), time.perf_counter()
    kind = choose_dtype("auto" if bits else dtype, choose_device(device))
    pooled, whole = (FurtherImages(pool=side, markers=True) for side in (2, 1))
    engine = random_parts.engine(size, device, kind, bits=bits, further=pooled, rope_factor=1.5)
    _finish(engine.device)
    result: dict[str, Any] = {"drawn_seconds": time.perf_counter() - begin}
    one = Study(indication=INDICATION)
    study = replace(one, lateral=True, prior=images > 2, prior_report=PRIOR_REPORT if images > 2 else None)
    pictures = random_parts.pictures(size, images)
    for form, count, given, further in (
        ("1 image", 1, one, pooled),
        (f"{images} images, pooled by 2 x 2", images, study, pooled),
        (f"{images} images, all tokens", images, study, whole),
    ):
        engine.config = engine.config.model_copy(update={"further_images": further})
        result[form] = written(engine, pictures[:count], Decoding(study=given, max_new_tokens=tokens))
        _log(f"{dtype}: {form}", result[form])
    return result


def _finish(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def rehearse(size: Size, folder: Path, device: str, dtypes: Sequence[str]) -> dict[str, Any]:
    """Run every step; returns the costs of each."""
    image, model = folder / "image.png", folder / "model"
    encoder, language_model = folder / "rad-dino", folder / "vicuna-7b-v1.5"
    _again("--write", str(folder), *(["--tiny"] if size.width == TINY.width else []))
    result: dict[str, Any] = {}
    _log("weights are written")
    parts = ("--encoder", encoder, "--language-model", language_model, "--recipe", size.recipe)
    result["assemble"] = called("assemble", *parts, "--offline", model)
    _log("assembled", result["assemble"])
    shutil.rmtree(language_model)
    result["bytes_on_disk"] = sum(path.stat().st_size for path in model.rglob("*"))
    found = called(
        "doctor", "--model", model, fine=(0, 1)
    )  # 1: a package is missing, which the next steps may not need
    result["doctor"] = found | {
        "output": [line.strip() for line in found["output"].splitlines() if re.match(r"\w+ +(model|memory)\b", line)]
    }
    for dtype in dtypes:
        words = ("--dtype", dtype, "--device", device, "--max-new-tokens", str(size.tokens), "--offline")
        generated = called("generate", image, "--model", model, *words, "--format", "json")
        report = json.loads(generated.pop("output"))
        assert report["report"]["text"] and report["ai_generated"]
        _log(f"{dtype}: generate", generated)
        result[dtype] = {"generate": generated} | loaded(model, image, dtype, device, size.tokens)
        _log(f"{dtype}: loaded", result[dtype])
    return result


def _log(step: str, found: dict[str, Any] | None = None) -> None:
    """Print results at once, so that an interrupted run leaves them."""
    numbers = {name: value for name, value in (found or {}).items() if isinstance(value, int | float)}
    print(step, json.dumps(numbers) if numbers else "", file=sys.stderr, flush=True)


def show(result: dict[str, Any]) -> None:
    """Print the results as a table."""
    giga, names = 1e9, [name for name in (*DTYPES, "float32") if name in result]
    row = result[names[0]]
    print(f"{row['device']}, torch {row['torch']}; {result['bytes_on_disk'] / giga:.1f} GB on disk\n")
    for name in ("assemble", "doctor"):
        print(f"{name}: {result[name]['seconds']:.0f} s, peak {result[name]['peak_bytes'] / giga:.1f} GB")
    print("\n".join(["", *result["doctor"]["output"], ""]))
    print(
        "| type | `generate`, s | load, s | image, s | first token, s | tokens/s | report, s | memory, GB | CUDA, GB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in names:
        row = result[name]
        cuda = f"{row['cuda_bytes'] / giga:.1f}" if row["cuda_bytes"] else "-"
        print(
            f"| {name} | {row['generate']['seconds']:.0f} | {row['load_seconds']:.1f} | {row['image_seconds']:.2f} | "
            f"{row['first_token_seconds']:.2f} | {row['tokens_per_second']:.2f} | {row['report_seconds']:.1f} | "
            f"{row['peak_bytes'] / giga:.1f} | {cuda} |"
        )
    print(f"\n{row['prompt_tokens']} tokens of prompt, {row['tokens']} of answer")


def show_studies(result: dict[str, Any]) -> None:
    """Print the results of ``--images`` as a table."""
    print("| type | study | prompt | image, s | first token, s | tokens/s | report, s | memory, GB | CUDA, GB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for dtype, found in result.items():
        for form, row in found.items():
            if form == "drawn_seconds":
                continue
            cuda = f"{row['cuda_bytes'] / 1e9:.1f}" if row["cuda_bytes"] else "-"
            print(
                f"| {dtype} | {form} | {row['prompt_tokens']} | {row['image_seconds']:.2f} | "
                f"{row['first_token_seconds']:.2f} | {row['tokens_per_second']:.2f} | {row['report_seconds']:.1f} | "
                f"{row['peak_bytes'] / 1e9:.1f} | {cuda} |"
            )
    print(f"\n{row['device']}, torch {row['torch']}; {row['tokens']} tokens of answer")


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print; exit code 1 where a step fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtypes", default=",".join(DTYPES), help="default: %(default)s")
    parser.add_argument("--folder", type=Path, help="folder for the weights; default: a temporary one")
    parser.add_argument("--keep", action="store_true", help="leave the assembled checkpoint in --folder")
    parser.add_argument("--images", type=int, choices=(1, 2, 3), default=1, help="of a study; default: %(default)s")
    parser.add_argument("--tokens", type=int, help=f"of each report; default: {REAL.tokens}")
    parser.add_argument("--tiny", action="store_true", help="small networks, to try the script")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--image", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--draw", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if unknown := set(options.dtypes.split(",")) - {*DTYPES, "float32"}:
        parser.error(f"--dtypes: {', '.join(sorted(unknown))}: choose from {', '.join(DTYPES)}, float32")
    if options.tokens is not None and options.tokens < 2:
        parser.error("--tokens: at least 2, for a rate")
    size = TINY if options.tiny else REAL
    size = replace(size, tokens=options.tokens or size.tokens)
    if options.write:
        write_encoder(size, options.write / "rad-dino")
        write_language_model(size, options.write / "vicuna-7b-v1.5")
        write_image(options.write / "image.png")
        return 0
    if options.load:
        print(json.dumps(load(options.load, options.image, options.dtypes, options.device, size.tokens)))
        return 0
    if options.draw:
        print(json.dumps(draw(size, options.images, options.dtypes, options.device, size.tokens)))
        return 0
    if options.images > 1:
        words = ["--draw", "--images", str(options.images), "--device", options.device, "--tokens", str(size.tokens)]
        words += ["--tiny"] if options.tiny else []
        studies = {dtype: json.loads(_again(*words, "--dtypes", dtype)) for dtype in options.dtypes.split(",")}
        print(json.dumps(studies, indent=1)) if options.format == "json" else show_studies(studies)
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        result = rehearse(size, folder, options.device, options.dtypes.split(","))
        if options.keep and options.folder:
            (folder / "model").replace(options.folder / "model")
    if options.format == "json":
        print(json.dumps(result, indent=1))
    else:
        show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
