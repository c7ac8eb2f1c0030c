"""What stands in for the parts of a PPO trainer: roll-outs by the suite's token loop, a reward on text, a critic.

None of them imports the trainer; each has the shape that TRL's looks for.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import LogitsProcessor
from transformers.modeling_outputs import CausalLMOutput

from bon.decoding import Responses, decode
from bon.generation import decoded
from bon.options import resolve_generation_config
from bon.randomness import candidate_uniforms
from bon.rewards import checked_scores
from suite.baselines import TrainingTask

#: Streams of random numbers derived from the seed (roll-outs have the seed itself).
MINIBATCHES, ORDER, POOL = 1, 2, 3


class _Record(LogitsProcessor):
    """Keeps the logits that every token was drawn from: TRL computes the roll-outs' log-probabilities from them."""

    def __init__(self) -> None:
        self.logits: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.logits.append(scores)
        return scores


class RollOuts:
    """Stands in for the policy's `generate`, once an update, with random numbers of (seed, update)."""

    def __init__(self, policy: Any, task: TrainingTask, first_update: int) -> None:
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

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> SimpleNamespace:
        """One response to each prompt, with the logits it was drawn from."""
        prompts = [ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)]
        record = _Record()
        responses = self.draw(prompts, 1, record)
        drawn = len(record.logits)
        return SimpleNamespace(
            sequences=torch.cat([input_ids, responses.token_ids[:, :drawn]], 1).clone(),
            scores=tuple(logits.clone() for logits in record.logits),
        )

    def draw(self, prompts: Sequence[Sequence[int]], repeats: int, processor: LogitsProcessor | None = None) -> Responses:
        """The responses of an update, `repeats` to each prompt; the global generators start afresh."""
        seed, steps, rows = self.task.seed, self.task.sampling.max_new_tokens, len(prompts) * repeats
        np.random.seed(np.random.SeedSequence([seed, MINIBATCHES, self.update]).generate_state(4))  # noqa: NPY002
        torch.manual_seed(seed)
        uniforms = np.concatenate([candidate_uniforms(seed, self.update, range(row, row + 1), steps) for row in range(rows)])
        device = self.policy.device
        responses = decode(
            self.policy,
            self.config,
            prompts,
            repeats,
            torch.from_numpy(uniforms).to(device),
            torch.full((rows,), steps, device=device),
            extra_processor=processor,
        )
        self.update += 1
        self.tokens += int(responses.lengths.sum())
        return responses

    def spent(self) -> int:
        """Tokens drawn since it was last asked."""
        tokens, self.tokens = self.tokens, 0
        return tokens


def text_rewards(task: TrainingTask, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> np.ndarray:
    """The proxy reward [R] of every response behind its prompt, as one text."""
    rows: Any = [[np.array(ids)] for ids in responses]
    texts, drawn = decoded(task.policy.tokenizer, prompts, rows, np.array([[len(ids)] for ids in responses]))
    return checked_scores(task.proxy.reward, [text + response for text, response in zip(texts, drawn[:, 0], strict=True)])


class TextReward(nn.Module):
    """A reward on text, as the classifier that TRL's `get_reward` expects: every position of a row holds the row's reward."""

    base_model_prefix = "reader"

    def __init__(self, task: TrainingTask, width: int) -> None:
        super().__init__()
        self.task = task
        self.width = width
        self.score = nn.Identity()
        self.last: np.ndarray = np.zeros(0)

    def reader(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> SimpleNamespace:
        """The trunk of the classifier: rewards in the place of hidden states."""
        inside = attention_mask.bool()
        halves = slice(None, self.width), slice(self.width, None)
        prompts, responses = (
            [ids[mask].tolist() for ids, mask in zip(input_ids[:, half], inside[:, half], strict=True)] for half in halves
        )
        self.last = text_rewards(self.task, prompts, responses)
        rewards = torch.from_numpy(self.last).float().to(input_ids.device)
        return SimpleNamespace(hidden_states=[rewards[:, None, None].expand(-1, input_ids.shape[1], 1)])


class Critic(nn.Module):
    """A value head, on a trunk of its own or on the policy's."""

    base_model_prefix = "trunk"

    def __init__(self, policy: Any, shared: bool) -> None:
        super().__init__()
        self.score = nn.Linear(policy.config.hidden_size, 1, bias=False)
        nn.init.zeros_(self.score.weight)
        self.trunk = _share_trunk(policy) if shared else copy.deepcopy(policy.base_model)


def _share_trunk(policy: Any) -> Any:
    """A function that runs the policy's trunk and lets the policy's next forward on the same tokens reuse what it found."""
    kept: dict[str, Any] = {}
    forward = policy.forward

    def trunk(input_ids: torch.Tensor, **kwargs: Any) -> Any:
        output = policy.base_model(input_ids=input_ids, **kwargs)
        kept.update(input_ids=input_ids, hidden=output.last_hidden_state)
        return output

    @functools.wraps(forward)  # its signature is what others look at
    def reuse(input_ids: torch.Tensor | None = None, **kwargs: Any) -> Any:
        hidden = kept.pop("hidden", None)
        if hidden is not None and kept.pop("input_ids") is input_ids and torch.is_grad_enabled():
            return CausalLMOutput(logits=policy.get_output_embeddings()(hidden))
        return forward(input_ids=input_ids, **kwargs)

    policy.forward = reuse
    return trunk
