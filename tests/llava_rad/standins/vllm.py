"""A stand-in for vLLM in tests: the part of its interface that ``vllm_worker.py`` uses, answered by transformers.

What it is told to do besides stands in the environment: ``STANDIN=die`` ends the process in the middle of an answer,
``STANDIN=forget`` leaves out the last answer, ``STANDIN=fail`` raises.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

__version__ = "stand-in"


class SamplingParams:
    def __init__(self, *, temperature, max_tokens, stop_token_ids, logit_bias, detokenize) -> None:
        assert temperature == 0.0 and detokenize is False
        self.max_tokens, self.stop, self.bias = max_tokens, stop_token_ids, logit_bias


class LLM:
    def __init__(self, model: str, *, dtype: str, max_model_len: int, enable_prompt_embeds: bool, **more: Any) -> None:
        from transformers import LlamaForCausalLM

        assert enable_prompt_embeds and more["skip_tokenizer_init"] and more["generation_config"] == "vllm"
        print("the stand-in talks on standard output, as vLLM does")
        self.model = LlamaForCausalLM.from_pretrained(model, dtype=dtype).eval()
        assert max_model_len == self.model.config.max_position_embeddings

    def generate(self, prompts: list[dict[str, Any]], settings: SamplingParams, *, use_tqdm: bool) -> list[Any]:
        import torch

        told = os.environ.get("STANDIN")
        if told == "die":
            os._exit(9)
        if told == "fail":
            raise RuntimeError("no room left\nin the cache")
        answers = []
        for prompt in prompts[: -1 if told == "forget" else None]:
            with torch.inference_mode():
                row = self.model.generate(
                    inputs_embeds=prompt["prompt_embeds"][None],
                    attention_mask=torch.ones(1, len(prompt["prompt_embeds"]), dtype=torch.long),
                    max_new_tokens=settings.max_tokens,
                    eos_token_id=settings.stop,
                    pad_token_id=0,
                    do_sample=False,
                    suppress_tokens=list(settings.bias or ()) or None,
                )[0].tolist()
            answers.append(SimpleNamespace(outputs=[SimpleNamespace(token_ids=row)]))
        return answers
