"""Fine-tuning on best-of-n: the loss by hand, the choice by brute force, seeds, resuming, budget, and that it learns."""

import math

import numpy as np
import pytest
import torch
from training_checks import even_tokens, generators, numbers, same_weights, weights, words

from bon import generate_candidates
from suite.baselines import bon_sft
from suite.baselines.interface import train
from suite.config.baselines import BonSFTConfig, PPOConfig
from suite.models.policies import load_checkpoint


@pytest.fixture(scope="module")
def make_task(training_task):
    """make_task(folder, seed=0, proxy=..., temperature=1.0, **settings) -> four updates on 16 of 24 prompts."""

    def made(folder, **settings):
        small = {"updates": 0, "epochs": 2, "num_prompts": 16, "best_of": 4, "checkpoint_every": 2}
        return training_task(BonSFTConfig, folder, **{**small, **settings})

    return made


@pytest.fixture(scope="module")
def tuned(make_task, tmp_path_factory):
    return train(make_task(tmp_path_factory.mktemp("tuned")))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_loss_is_of_response_tokens_alone(policy, temperature):
    prompts, responses = [[5, 6, 7], [8], [9, 10]], [[11, 12], [13, 14, 15, policy.tokenizer.eos_token_id], [16]]
    total = 0.0
    for prompt, response in zip(prompts, responses, strict=True):
        for t, token in enumerate(response):
            with torch.no_grad():
                logits = policy.model(torch.tensor([prompt + response[:t]])).logits[0, -1] / temperature
            total -= float(logits[token]) - math.log(sum(math.exp(x) for x in logits.double().tolist()))
    loss = bon_sft.response_loss(policy.model, prompts, responses, temperature)
    assert loss.item() == pytest.approx(total / 7, abs=1e-4)


def test_the_best_is_kept_with_its_end(make_task, tmp_path):
    pool = bon_sft.training_pool(make_task(tmp_path))
    prompts, responses, rewards = bon_sft.chosen(pool)
    assert pool.scores["proxy"].shape == (16, 4)
    for p in range(16):
        best = max(range(4), key=lambda c: pool.scores["proxy"][p, c])
        assert prompts[p] == list(pool.prompt_token_ids[p])
        assert responses[p] == pool.token_ids[p, best].tolist()[: pool.lengths[p, best]]
        assert rewards[p] == max(pool.scores["proxy"][p])


def test_the_control_learns_one_of_the_same_responses_whatever_its_reward(make_task, tmp_path):
    task = make_task(tmp_path, choice="random")
    pool = bon_sft.training_pool(task)
    _, responses, rewards = bon_sft.chosen(pool, "random")
    assert responses == [pool.token_ids[p, 0, : pool.lengths[p, 0]].tolist() for p in range(16)]
    np.testing.assert_array_equal(rewards, pool.scores["proxy"][:, 0])
    assert rewards.mean() < bon_sft.chosen(pool)[2].mean()
    control = train(task)
    assert not same_weights(weights(control), weights(train(make_task(tmp_path / "best"))))


def test_an_end_of_sequence_token_is_learned(policy, hand_pool):
    eos = policy.tokenizer.eos_token_id
    pool = hand_pool([[0.0, 1.0]], token_ids=np.array([[[4, 5, 6, 7], [8, 9, eos, 0]]]), lengths=np.array([[4, 3]]))
    assert bon_sft.chosen(pool)[1] == [[8, 9, eos]]


def test_more_candidates_make_better_data(make_task, tmp_path):
    means = [bon_sft.chosen(bon_sft.training_pool(make_task(tmp_path, best_of=n)))[2].mean() for n in (1, 4, 16)]
    assert means[0] < means[1] < means[2]


def test_only_training_prompts_are_answered(make_task, training_prompts, prompts, policy, tmp_path, monkeypatch):
    asked, read = [], []

    def noted(model, tokenizer, prompts, *arguments, **options):
        asked.extend(map(tuple, prompts))
        return generate_candidates(model, tokenizer, prompts, *arguments, **options)

    monkeypatch.setattr(bon_sft, "generate_candidates", noted)
    train(make_task(tmp_path, proxy=words(lambda texts: [read.append(text) or float(len(text)) for text in texts])))
    assert len(asked) == len(set(asked)) == 16
    assert set(asked) <= set(map(tuple, training_prompts))
    assert not set(asked) & set(map(tuple, prompts))
    assert len(read) == 16 * 4
    known = tuple(policy.tokenizer.decode(ids) for ids in training_prompts)
    assert all(text.startswith(known) for text in read)


def test_log_and_checkpoints(tuned):
    assert list(tuned.checkpoints) == [1, 2, 4]
    assert [row["update"] for row in tuned.log] == [1, 2, 3, 4]
    for row in tuned.log:
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, int | float))
        assert sum(row["reward/histogram"]["counts"]) == 8
        assert row["episode"] == 64
        assert row["policy/grad_norm"] > 0
    assert tuned.log[-1]["loss"] < tuned.log[0]["loss"]
    assert [row["lr"] for row in tuned.log] == pytest.approx([3e-4 * share for share in (1, 0.75, 0.5, 0.25)])
    # What was drawn is charged once.
    assert tuned.log[0]["tokens"] == tuned.tokens
    assert 64 <= tuned.tokens <= 64 * 6
    assert {path.name for path in tuned.checkpoints[4].iterdir()} >= {"model.safetensors", "tokenizer.json", "optimizer.pt"}


def test_every_chosen_response_is_seen_once_an_epoch(make_task, tmp_path, monkeypatch):
    seen = []
    real = bon_sft.response_loss

    def noted(policy, prompts, responses, temperature):
        seen.append([tuple(prompt + response) for prompt, response in zip(prompts, responses, strict=True)])
        return real(policy, prompts, responses, temperature)

    monkeypatch.setattr(bon_sft, "response_loss", noted)
    task = make_task(tmp_path)
    train(task)
    prompts, responses, _ = bon_sft.chosen(bon_sft.training_pool(task))
    data = sorted(tuple(prompt + response) for prompt, response in zip(prompts, responses, strict=True))
    assert [len(batch) for batch in seen] == [8] * 4
    assert sorted(seen[0] + seen[1]) == sorted(seen[2] + seen[3]) == data
    assert seen[:2] != seen[2:]


def test_one_seed_gives_one_result_and_moves_nothing(tuned, make_task, tmp_path, policy):
    before = generators()
    model = {key: value.clone() for key, value in policy.model.state_dict().items()}
    again = train(make_task(tmp_path))
    assert generators() == before
    assert same_weights(policy.model.state_dict(), model)
    assert numbers(again.log) == numbers(tuned.log)
    assert same_weights(weights(again), weights(tuned))


def test_another_seed_gives_another(tuned, make_task, tmp_path):
    other = train(make_task(tmp_path, seed=1))
    assert not same_weights(weights(other), weights(tuned))
    assert other.tokens != tuned.tokens or other.log[0]["objective/scores"] != tuned.log[0]["objective/scores"]


def test_interrupted_and_resumed_equals_uninterrupted(tuned, make_task, tmp_path, monkeypatch):
    real, calls = bon_sft.response_loss, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(bon_sft, "response_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(make_task(tmp_path))
    monkeypatch.setattr(bon_sft, "generate_candidates", lambda *_, **__: pytest.fail("drawn again"))
    resumed = train(make_task(tmp_path))
    assert len(calls) == 4
    assert numbers(resumed.log) == numbers(tuned.log)
    assert same_weights(weights(resumed), weights(tuned))


def test_it_learns(make_task, policy, tmp_path, prompts):
    proxy = even_tokens(policy.tokenizer)
    training = train(make_task(tmp_path, proxy=proxy, best_of=16, epochs=10, num_prompts=24, learning_rate=1e-2))
    rewards = []
    for model in (policy.model, load_checkpoint(policy, training.checkpoints[max(training.checkpoints)]).model):
        pool = generate_candidates(model, policy.tokenizer, prompts, 8, seed=5, max_new_tokens=6)
        rewards.append(np.mean(proxy.reward([text for row in pool.full_texts for text in row])))
    assert rewards[1] > rewards[0] + 0.1


def test_the_budget_of_ppo_unless_told_otherwise():
    own, ppo = BonSFTConfig(), PPOConfig()
    assert own.num_prompts * own.best_of == ppo.updates * ppo.batch_size
