"""A policy that somebody else has tuned: nothing is trained, it is evaluated as the others are.

What its training cost is not known, so the run says nothing of when it would pay off.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from suite.baselines.interface import Training, TrainingTask
from suite.config.baselines import PublishedConfig
from suite.config.run import PolicyConfig
from suite.models.files import here, matching_tokenizer, weights_digest
from suite.models.policies import PAD_TOKEN
from suite.runtime.errors import UserError


def check_published(config: PublishedConfig, tokenizer: Any) -> Path:
    """The folder of the tuned policy, whose tokens are those of the base policy.

    Raises:
        UserError: it cannot be had, or its token ids mean something else.
    """
    key = f"baseline.path={config.path}"
    policy = PolicyConfig(name=config.name, path=config.path, revision=config.revision)
    folder = here(policy, "baseline", "baseline=ppo").path
    weights_digest(folder, key)
    own, _ = matching_tokenizer(folder, "baseline.path")
    # The base may have been given a padding token.
    if {**own.get_vocab(), PAD_TOKEN: 0} != {**tokenizer.get_vocab(), PAD_TOKEN: 0}:
        raise UserError(f"{key}: its tokens are not those of the policy; a tuned policy goes with the base it was tuned from")
    return Path(folder)


def train(task: TrainingTask) -> Training:
    """Nothing is trained: the one checkpoint is the published policy."""
    assert isinstance(task.config, PublishedConfig)
    return Training({0: check_published(task.config, task.policy.tokenizer)}, measured=False)
