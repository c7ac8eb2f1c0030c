"""What tests of trainings look at."""

import random
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import load_file

TIMES = {"seconds", "tokens_per_second", "eps"}


def numbers(log):
    """The log without what the clock says."""
    return [{name: value for name, value in row.items() if name not in TIMES} for row in log]


def weights(training, update=None):
    """Parameters after an update, the last unless given."""
    return load_file(training.checkpoints[update or max(training.checkpoints)] / "model.safetensors")


def same_weights(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def words(reward):
    """A judge from a function of texts."""
    return SimpleNamespace(reward=reward)


def generators():
    """The state of the three global generators."""
    numpy_state = np.random.get_state()  # noqa: NPY002
    return random.getstate(), tuple(map(str, numpy_state[1])), numpy_state[2:], torch.get_rng_state().tolist()


def even_tokens(tokenizer, scale=4.0):
    """An easy reward: the share of tokens with an even id, times `scale`."""

    def reward(texts):
        return [scale * sum(i % 2 == 0 for i in ids) / max(len(ids), 1) for ids in tokenizer(texts)["input_ids"]]

    return words(reward)
