"""Worker of ``llava_rad.generation.vllm``: runs vLLM in its own interpreter, as a file.

It needs torch and vLLM only and communicates over standard input and output. A message is eight bytes of length, a JSON
object of that length, and the raw bytes of the tensors that the object announces. vLLM's own output goes to stderr.

    {"do": "load", "folder": str, "dtype": str, "longest": int, "memory": float}  ->  {"vllm": version}
    {"do": "write", "dtype": str, "shapes": [[L, D], ...], "max_new_tokens": int, "eos": int, "suppressed": [int, ...]}
        + the prompts' embeddings, one after the other  ->  {"ids": [[int, ...], ...]}

Errors are answered with {"error": str}.
"""

from __future__ import annotations

import importlib
import json
import os
import struct
import sys
from pathlib import Path
from typing import IO, Any

Message = dict[str, Any]

_LENGTH = struct.Struct(">Q")


def send(stream: IO[bytes], message: Message, payload: bytes | bytearray | memoryview = b"") -> None:
    """Write one message."""
    text = json.dumps(message).encode()
    stream.write(_LENGTH.pack(len(text)) + text)
    stream.write(payload)
    stream.flush()


def receive(stream: IO[bytes]) -> Message | None:
    """Read one message's object; None at the end of the stream.

    Raises:
        EOFError: if the stream ends within a message.
    """
    first = stream.read(_LENGTH.size)
    if not first:
        return None
    if len(first) < _LENGTH.size:
        raise EOFError
    message: Message = json.loads(exactly(stream, _LENGTH.unpack(first)[0]))
    return message


def exactly(stream: IO[bytes], size: int) -> bytearray:
    """Read ``size`` bytes.

    Raises:
        EOFError: if there are fewer.
    """
    data = bytearray(size)
    view, at = memoryview(data), 0
    while at < size:
        read = stream.readinto(view[at:])  # type: ignore[attr-defined]
        if not read:
            raise EOFError
        at += read
    return data


class Worker:
    """One loaded language model."""

    def __init__(self) -> None:
        self._vllm: Any = None
        self._model: Any = None

    def load(self, message: Message) -> Message:
        """Load a ``LlamaForCausalLM`` folder."""
        self._vllm = importlib.import_module("vllm")
        self._model = self._vllm.LLM(
            model=message["folder"],
            dtype=message["dtype"],
            max_model_len=message["longest"],
            gpu_memory_utilization=message["memory"],
            enable_prompt_embeds=True,
            skip_tokenizer_init=True,
            generation_config="vllm",  # ignore the folder's: the message holds all settings
            seed=0,
        )
        return {"vllm": str(self._vllm.__version__)}

    def write(self, message: Message, stream: IO[bytes]) -> Message:
        """Answer prompts, given as embeddings, by greedy decoding."""
        import torch

        dtype: torch.dtype = getattr(torch, message["dtype"])
        prompts = []
        for length, width in message["shapes"]:
            data = exactly(stream, length * width * dtype.itemsize)
            prompts.append({"prompt_embeds": torch.frombuffer(data, dtype=dtype).view(length, width)})
        settings = self._vllm.SamplingParams(
            temperature=0.0,
            max_tokens=message["max_new_tokens"],
            stop_token_ids=[message["eos"]],
            logit_bias=dict.fromkeys(message["suppressed"], -100.0) or None,  # vLLM's lowest
            detokenize=False,
        )
        found = self._model.generate(prompts, settings, use_tqdm=False)
        return {"ids": [list(answer.outputs[0].token_ids) for answer in found]}

    def answer(self, message: Message, stream: IO[bytes]) -> Message:
        """Handle a message, and return the reply."""
        try:
            return self.load(message) if message["do"] == "load" else self.write(message, stream)
        except ModuleNotFoundError as error:
            return {"error": f"it has no module {error.name}", "missing": error.name}
        except Exception as error:  # vLLM, torch and CUDA raise errors of many types
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return {"error": ": ".join([type(error).__name__, *lines[:1]])}


def main() -> None:
    """Answer messages until there are no more."""
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [entry for entry in sys.path if entry != here]  # vLLM must not import modules of this folder
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # a single process, which can be ended as a whole
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    worker = Worker()
    while (message := receive(incoming)) is not None:
        send(outgoing, worker.answer(message, incoming))


if __name__ == "__main__":
    main()
