"""What stands in for the parts of a PPO trainer: a reward on text, and a critic.

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
from suite.runtime.command import UserError


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
    """A value head on a trunk: the proxy reward's, the policy's own start, or the policy's itself.

    A reward model of the policy's tokens is the best start there is (Stiennon et al. 2020; Ouyang et al. 2022): read at any
    token, its head already tells the reward of the text so far. Elsewhere the head starts at 0.
    """

    base_model_prefix = "trunk"

    def __init__(self, policy: Any, kind: str, reward: Any | None = None) -> None:
        super().__init__()
        if kind == "reward":
            assert reward is not None
            model = reward.model
            self.trunk = copy.deepcopy(model.base_model).float()
            self.score = nn.Linear(model.score.in_features, 1, bias=False)
            others = [label for label in range(len(model.score.weight)) if label != reward.index]
            with torch.no_grad():
                self.score.weight[0] = model.score.weight[reward.index]
                if others:
                    self.score.weight[0] -= model.score.weight[others].mean(0)
            self.requires_grad_(True)
            return
        self.score = nn.Linear(policy.config.hidden_size, 1, bias=False)
        nn.init.zeros_(self.score.weight)
        self.trunk = _share_trunk(policy) if kind == "shared" else copy.deepcopy(policy.base_model)


def critic_kind(task: TrainingTask, wanted: str) -> str:
    """Return where the critic starts: as `wanted`, where `auto` means `reward` if the proxy can be a critic, else `own`.

    Raises:
        UserError: `reward` is wanted, and the proxy is no causal classifier of the policy's own tokens.
    """
    if wanted not in ("auto", "reward"):
        return wanted
    reward = task.proxy.reward
    model, tokenizer = getattr(reward, "model", None), getattr(reward, "tokenizer", None)
    fits = (
        isinstance(getattr(model, "score", None), nn.Linear)
        and model.score.bias is None
        and tokenizer.get_vocab() == task.policy.tokenizer.get_vocab()
        and model.get_input_embeddings().num_embeddings >= len(task.policy.tokenizer)
    )
    if wanted == "reward" and not fits:
        raise UserError(
            "baseline.critic=reward is not allowed: the proxy reward must be a causal classifier with the policy's tokenizer; "
            "use baseline.critic=own"
        )
    return "reward" if fits else "own"


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
