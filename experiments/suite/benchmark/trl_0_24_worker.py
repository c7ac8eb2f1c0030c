"""Runs in a virtual environment of its own with TRL 0.24: reads a task a line, draws, prints tokens and seconds a line.

It may import nothing of this project. The reward is constant, so that what is timed is sampling.
"""

import contextlib
import json
import sys
import time
from typing import Any, TextIO

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast


def main(tasks: TextIO, answers: TextIO) -> None:
    """Answer every task: {"model", "prompts", "options", "hide_pad", "threads", "device", "n"}."""
    loaded: dict[str, Any] = {}
    for line in tasks:
        task = json.loads(line)
        with contextlib.redirect_stdout(sys.stderr):  # what libraries print is no answer
            if task["model"] not in loaded:
                torch.set_num_threads(task["threads"])
                loaded[task["model"]] = load(task)
            answer = draw(task, *loaded[task["model"]])
        print(json.dumps(answer), file=answers, flush=True)


def load(task: dict[str, Any]) -> tuple[Any, Any]:
    """The policy in TRL's value-head wrapper, which its sampler insists on, and the tokenizer."""
    from trl import AutoModelForCausalLMWithValueHead  # type: ignore[attr-defined]  # the suite's TRL is another one

    model = AutoModelForCausalLM.from_pretrained(task["model"], dtype=torch.float32)
    pad = task["options"]["pad_token_id"]

    def suppress(_module: Any, _inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        logits[..., pad] = -1e4
        return logits

    if task["hide_pad"]:  # as for every other contender
        model.get_output_embeddings().register_forward_hook(suppress)
    wrapped = AutoModelForCausalLMWithValueHead.from_pretrained(model).to(task["device"]).eval()
    return wrapped, PreTrainedTokenizerFast.from_pretrained(task["model"])


def draw(task: dict[str, Any], model: Any, tokenizer: Any) -> dict[str, float]:
    """Draw n responses a prompt; {"tokens", "seconds"}. EOS counts as a token, padding does not."""
    from trl.extras import BestOfNSampler  # type: ignore[attr-defined]

    options = dict(task["options"])
    length, eos = options.pop("max_new_tokens"), options["eos_token_id"]
    drawn: list[torch.Tensor] = []
    generate = type(model).generate

    def watched(queries: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        output = generate(model, queries, **kwargs)
        drawn.append(output[:, queries.shape[1] :])
        return output

    model.generate = watched
    sampler = BestOfNSampler(
        model,
        tokenizer,
        lambda texts: [0.0] * len(texts),
        lambda: length,
        sample_size=task["n"],
        generation_config=GenerationConfig(min_length=-1, **options),
    )
    queries = [torch.tensor(prompt) for prompt in task["prompts"]]
    start = time.perf_counter()
    sampler.generate(queries, device=task["device"])
    seconds = time.perf_counter() - start
    ended = [(response == eos).int() for response in drawn]
    return {"tokens": sum(int((end.cumsum(1) - end == 0).sum()) for end in ended), "seconds": seconds}


if __name__ == "__main__":
    main(sys.stdin, sys.stdout)
