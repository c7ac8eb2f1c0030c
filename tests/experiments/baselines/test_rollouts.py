"""What is logged of the roll-outs, held against the library's own measures on responses that it draws itself."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bon import generate_candidates
from bon.candidates import stacked
from bon.estimators.diversity import distinct_n
from bon.kl import sequence_kl
from suite.baselines import ppo
from suite.baselines.interface import train
from suite.baselines.streams import rollout_seed
from suite.baselines.updates import batch
from suite.config.baselines import GRPOConfig, PPOConfig, RLOOConfig
from suite.models.policies import load_checkpoint

KINDS = {"ppo": (PPOConfig, 1, {"num_ppo_epochs": 2}), "rloo": (RLOOConfig, 2, {"num_generations": 2}),
         "grpo": (GRPOConfig, 2, {"num_generations": 2, "num_mini_batches": 2})}  # fmt: skip


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("name", KINDS)
def test_the_log_tells_what_the_library_finds(name, temperature, training_task, policy, tmp_path):
    kind, repeats, settings = KINDS[name]
    task = training_task(kind, tmp_path, temperature=temperature, checkpoint_every=1, learning_rate=3e-3, **settings)
    training = train(task)
    row = training.log[1]

    tuned = load_checkpoint(policy, training.checkpoints[1])
    indices = batch(task.seed, 2, len(task.prompts), task.config.batch_size // repeats)
    parts = [
        generate_candidates(
            tuned.model,
            tuned.tokenizer,
            [task.prompts[p]],
            1,
            seed=rollout_seed(task.seed),
            prompt_ids=[2],  # random numbers of (seed, update, row)
            first_candidate=candidate,
            max_new_tokens=task.sampling.max_new_tokens,
            temperature=temperature,
        )
        for candidate, p in enumerate(np.repeat(indices, repeats))
    ]
    pool = stacked(parts)
    kl = sequence_kl(tuned.model, policy.model, pool)
    responses = [ids[0, :length].tolist() for ids, length in zip(pool.token_ids, pool.lengths[:, 0], strict=True)]

    assert kl.rao_blackwell.mean() > 1e-3
    assert row["objective/kl_rao_blackwell"] == pytest.approx(kl.rao_blackwell.mean(), rel=1e-3)
    if name != "grpo":  # whose own estimate is another function of the same ratios
        assert row["objective/kl"] == pytest.approx(kl.monte_carlo.mean(), abs=2e-4)
    assert row["response/length"] == pool.lengths.mean()
    assert row["response/eos_rate"] == np.mean([ids[-1] == policy.tokenizer.eos_token_id for ids in responses])
    assert row["response/distinct_2"] == distinct_n(responses, 2)[0]
    assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"])
    assert training.log[0]["objective/kl_rao_blackwell"] == pytest.approx(0.0, abs=1e-4)


def returns_of(values, advantages, inside):
    """`ppo.Returns` after a trainer has whitened these advantages of a critic that gave these values."""
    critic = SimpleNamespace(score=torch.nn.Identity())
    returns = ppo.Returns(critic)
    with returns, torch.no_grad():
        from trl.experimental.ppo import ppo_trainer

        prompt = torch.full((len(values), 3), 7.0)
        critic.score(torch.cat([prompt[:, :2], values, prompt[:, :1]], 1)[..., None])
        whitened = ppo_trainer.masked_whiten(advantages, inside)
        ppo_trainer.masked_whiten(torch.full_like(advantages, 9.0), inside, shift_mean=False)
    return returns.explained_variance(), whitened


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0, 2.0])
def test_explained_variance_of_a_critic_that_knows_a_share_of_the_returns(share):
    generator = torch.Generator().manual_seed(0)
    returns = torch.randn(50, 5, generator=generator)
    inside = torch.rand(50, 5, generator=generator) < 0.7
    values = share * returns
    found, whitened = returns_of(values, returns - values, inside)
    assert found == pytest.approx(1 - (1 - share) ** 2, abs=1e-5)
    if share != 1.0:  # the trainer still gets what it asked for
        assert whitened[inside].mean() == pytest.approx(0.0, abs=1e-5)
        assert whitened[inside].std() == pytest.approx(1.0, abs=1e-3)


def test_constant_returns_have_nothing_to_explain():
    zeros = torch.zeros(4, 3)
    assert returns_of(zeros, zeros, torch.ones(4, 3, dtype=torch.bool))[0] == 0.0


def test_a_critic_that_says_nothing_explains_nothing(training_task, tmp_path):
    log = train(training_task(PPOConfig, tmp_path, num_ppo_epochs=2, critic="own")).log
    assert log[0]["val/explained_variance"] == pytest.approx(0.0, abs=1e-6)  # its head begins at zero
    assert log[1]["val/explained_variance"] != 0.0
    assert log[1]["val/explained_variance"] < 1.0
