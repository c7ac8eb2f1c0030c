"""Roll-outs by the suite's own token loop, and their description: lengths, endings, repetition, KL to the base policy."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import LogitsProcessor

from bon.estimators.diversity import distinct_n
from bon.generation.options import resolve_generation_config
from bon.generation.randomness import candidate_uniforms
from bon.generation.token_loop import Responses, decode
from suite.baselines.interface import TrainingTask
from suite.baselines.streams import MINIBATCHES, rollout_seed
from suite.runtime import distributed
from suite.runtime.device import autocast


class _Record(LogitsProcessor):
    """Keeps the logits that every token was drawn from: TRL computes the roll-outs' log-probabilities from them."""

    def __init__(self) -> None:
        self.logits: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.logits.append(scores)
        return scores


class RollOuts:
    """Draws the responses of every update, with random numbers of (seed, update); PPO's policy has it for `generate`.

    The trainer itself runs the reference on the responses. A hook on it compares next-token distributions there, so the
    Rao-Blackwellised KL costs no forward pass.
    """

    def __init__(self, policy: Any, reference: nn.Module, task: TrainingTask, first_update: int) -> None:
        self.policy = policy
        self.task = task
        self.update = first_update
        self.tokens = 0
        self.config = resolve_generation_config(
            policy,
            task.policy.tokenizer,
            None,
            {"temperature": task.sampling.temperature, "max_new_tokens": task.sampling.max_new_tokens},
        )
        self.precision = getattr(task.config, "precision", "auto")
        self._logits: list[torch.Tensor] = []
        self._lengths = torch.zeros(0, dtype=torch.long)
        self._kl: list[float] = []
        self._facts: dict[str, float] = {}
        reference.register_forward_hook(self._compare)

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> SimpleNamespace:
        """One response to each prompt, with the logits it was drawn from."""
        prompts = [ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)]
        responses = self.draw(prompts, 1)
        return SimpleNamespace(
            sequences=torch.cat([input_ids, responses.token_ids[:, : len(self._logits)]], 1).clone(),
            scores=tuple(logits.clone() for logits in self._logits),
        )

    def draw(self, prompts: Sequence[Sequence[int]], repeats: int) -> Responses:
        """The responses of an update, `repeats` to each prompt; the global generators start afresh.

        Of several processes each draws its share of the rows; a row's random numbers are the same whoever draws it.
        """
        seed, steps, rows = self.task.seed, self.task.sampling.max_new_tokens, len(prompts) * repeats
        np.random.seed(np.random.SeedSequence([seed, MINIBATCHES, self.update]).generate_state(4))  # noqa: NPY002
        torch.manual_seed(seed)
        begin = distributed.rank() * rows
        own = range(begin, begin + rows)
        stream = rollout_seed(seed)
        uniforms = np.concatenate([candidate_uniforms(stream, self.update, range(row, row + 1), steps) for row in own])
        device = self.policy.device
        record = _Record()
        with autocast(device, self.precision):  # as the trainer computes the same tokens again
            responses = decode(
                self.policy,
                self.config,
                prompts,
                repeats,
                torch.from_numpy(uniforms).to(device),
                torch.full((rows,), steps, device=device),
                extra_processor=record,
            )
        self.update += 1
        # On a GPU the loop may go on for some steps after the last response has ended.
        logits = record.logits[: int(responses.lengths.max())]
        self._logits, self._lengths, self._kl = logits, responses.lengths, []
        token_ids, lengths = distributed.gathered(responses.token_ids), distributed.gathered(responses.lengths)
        self.tokens += int(lengths.sum())
        self._facts = _facts(token_ids, lengths.tolist(), self.task.policy.tokenizer.eos_token_id)
        return responses

    def _compare(self, _reference: nn.Module, _inputs: Any, output: Any) -> None:
        """KL of the policy's next-token distributions from the reference's on the next rows of the roll-outs, summed."""
        steps, begin = len(self._logits), len(self._kl)
        # Before each response token stands the position that foretells it; the last position foretells nothing.
        reference = (output.logits[:, -(steps + 1) : -1].float() / self.task.sampling.temperature).log_softmax(-1)
        rows = slice(begin, begin + len(reference))
        policy = torch.stack([logits[rows] for logits in self._logits], 1).log_softmax(-1)
        inside = torch.arange(steps, device=reference.device) < self._lengths[rows, None]
        divergence = (policy.exp() * (policy - reference)).sum(-1)
        self._kl += (divergence * inside).sum(1).tolist()

    def facts(self) -> dict[str, float]:
        """Of the last roll-outs: mean length, share that ended by itself, distinct-2, and KL where there was a reference.

        These are of the rows of all processes, as is what was spent; all of them must ask.
        """
        every = distributed.gathered(torch.tensor(self._kl, dtype=torch.float64)).tolist()
        kl = {"objective/kl_rao_blackwell": float(np.mean(every))} if every else {}
        return {**self._facts, **kl}

    def spent(self) -> int:
        """Tokens drawn since it was last asked."""
        tokens, self.tokens = self.tokens, 0
        return tokens


def _facts(token_ids: torch.Tensor, lengths: list[int], eos_token_id: int | None) -> dict[str, float]:
    rows = [ids[:length].tolist() for ids, length in zip(token_ids, lengths, strict=True)]
    return {
        "response/length": float(np.mean(lengths)),
        "response/eos_rate": float(np.mean([bool(ids) and ids[-1] == eos_token_id for ids in rows])),
        "response/distinct_2": distinct_n(rows, 2)[0],
    }
