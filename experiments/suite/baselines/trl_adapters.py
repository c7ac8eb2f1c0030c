"""Adapters for parts of a PPO trainer: a reward on text, and a critic.

Neither imports the trainer; each has the shape that TRL's looks for.
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
from transformers.modeling_outputs import CausalLMOutput

from bon.generation.detokenize import decoded
from bon.rewards import checked_scores
from suite.baselines.interface import TrainingTask
from suite.runtime.errors import UserError


def text_rewards(task: TrainingTask, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> np.ndarray:
    """The proxy reward [R] of every response behind its prompt, as one text."""
    rows: Any = [[np.array(ids)] for ids in responses]
    texts, drawn = decoded(task.policy.tokenizer, prompts, rows, np.array([[len(ids)] for ids in responses]))
    answers = drawn[:, 0].tolist()
    whole = [text + response for text, response in zip(texts, answers, strict=True)]
    return checked_scores(task.proxy.reward, whole, prompts=texts, responses=answers)


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
    """A value head on a trunk: the proxy reward's, a copy of the policy's, or the policy's itself.

    A reward model of the policy's tokens is the best start there is (Stiennon et al. 2020; Ouyang et al. 2022): read at any
    token, its head already tells the reward of the text so far. Elsewhere the head starts at 0.

    Args:
        policy: the language model that is trained.
        kind: `reward`, `frozen`, `own` or `shared`, as in `PPOConfig.critic`.
        reward: the proxy; read for `reward` and `frozen` alone.
    """

    base_model_prefix = "trunk"

    def __init__(self, policy: Any, kind: str, reward: Any | None = None) -> None:
        super().__init__()
        if kind in ("reward", "frozen"):
            assert reward is not None
            trunk, self.score = copy.deepcopy(reward.model.base_model).float(), _reward_head(reward)
            if kind == "frozen":
                self.reader = trunk  # a module of this one, so that it moves and is counted with it
                trunk = _read_once(trunk)
            self.trunk = trunk
            self.requires_grad_(kind == "reward")
            return
        self.score = nn.Linear(policy.config.hidden_size, 1, bias=False)
        nn.init.zeros_(self.score.weight)
        self.trunk = _share_trunk(policy) if kind == "shared" else copy.deepcopy(policy.base_model)


def _reward_head(reward: Any) -> nn.Linear:
    """Return the head whose value at a text's last token is its reward: a logit, or its distance to the other logits' mean."""
    weight = reward.model.score.weight.detach().float()
    others = [label for label in range(len(weight)) if label != reward.index]
    head = nn.Linear(weight.shape[1], 1, bias=False).to(weight.device)
    with torch.no_grad():
        head.weight[0] = weight[reward.index] - (weight[others].mean(0) if others else 0.0)
    return head


def _read_once(trunk: nn.Module) -> Any:
    """Return a function that runs a trunk that nobody trains, and keeps each row of an update for its mini-batches."""
    kept: dict[bytes, torch.Tensor] = {}

    @torch.no_grad()
    def read(input_ids: torch.Tensor, **kwargs: Any) -> SimpleNamespace:
        keys = [row.tobytes() for row in input_ids.cpu().numpy()]
        if not all(key in kept for key in keys):
            hidden = trunk(input_ids=input_ids, **kwargs).hidden_states[-1]
            kept.clear()
            kept.update(zip(keys, hidden, strict=True))
        return SimpleNamespace(hidden_states=[torch.stack([kept[key] for key in keys])])

    return read


def critic_kind(task: TrainingTask, wanted: str) -> str:
    """Return where the critic starts: as `wanted`, where `auto` means `frozen` if the proxy can be a critic, else `own`.

    Raises:
        UserError: `reward` or `frozen` is wanted, and the proxy is no causal classifier of the policy's own tokens.
    """
    if wanted not in ("auto", "reward", "frozen"):
        return wanted
    reward = task.proxy.reward
    model: Any = getattr(reward, "model", None)
    tokenizer: Any = getattr(reward, "tokenizer", None)
    fits = (
        isinstance(getattr(model, "score", None), nn.Linear)
        and model.score.bias is None
        and tokenizer.get_vocab() == task.policy.tokenizer.get_vocab()
        and model.get_input_embeddings().num_embeddings >= len(task.policy.tokenizer)
    )
    if wanted != "auto" and not fits:
        raise UserError(
            f"baseline.critic={wanted} is not allowed: the proxy reward must be a causal classifier with the policy's "
            "tokenizer; use baseline.critic=own"
        )
    if not fits:
        return "own"
    return "frozen" if wanted == "auto" else wanted


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
