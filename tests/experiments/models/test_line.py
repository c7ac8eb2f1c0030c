"""Policies on the line of weights: by hand, at its trained end, beyond it; the base policy is left as it is."""

import copy
from pathlib import Path

import pytest
import torch

from suite.models.line import on_line
from suite.models.policies import load_checkpoint


@pytest.fixture(scope="module")
def checkpoint(policy, tmp_path_factory):
    """A policy whose weights are the base policy's plus 0.01."""
    folder = tmp_path_factory.mktemp("training") / "checkpoint-000001"
    moved = copy.deepcopy(policy.model)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter += 0.01
    moved.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("step", [0.25, 1.0, 2.0])
def test_weights_are_those_of_the_line(policy, checkpoint, step):
    before = {name: parameter.detach().clone() for name, parameter in policy.model.named_parameters()}
    with on_line(policy, checkpoint, step) as found:
        for name, parameter in found.model.named_parameters():
            torch.testing.assert_close(parameter.detach(), before[name] + 0.01 * step, rtol=0, atol=1e-6)
        # Who loads its folder has the same policy.
        loaded = load_checkpoint(policy, Path(found.folder))
        ids = torch.tensor([[5, 6, 7]])
        with torch.no_grad():
            assert torch.equal(loaded.model(ids).logits, found.model(ids).logits)
    assert all(torch.equal(before[name], parameter) for name, parameter in policy.model.named_parameters())
    assert [path.name for path in checkpoint.parent.iterdir()] == ["checkpoint-000001"]


def test_every_step_is_a_policy_of_its_own_with_a_lasting_name(policy, checkpoint):
    def digest(step):
        with on_line(policy, checkpoint, step) as found:
            return found.digest

    digests = [digest(step) for step in (0.5, 0.75, 0.5)]
    assert digests[0] == digests[2] != digests[1]
    assert digests[0] not in (policy.digest, load_checkpoint(policy, checkpoint).digest)


def test_the_policy_still_keeps_from_sampling_padding(policy, checkpoint):
    if policy.tokenizer.pad_token_id == policy.tokenizer.eos_token_id:
        pytest.skip("it pads with the end of a text")
    with on_line(policy, checkpoint, 1.5) as found, torch.no_grad():
        logits = found.model(torch.tensor([[5, 6, 7]])).logits
    assert (logits[..., policy.tokenizer.pad_token_id] <= -1e4).all()
