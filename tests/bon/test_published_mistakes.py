"""One regression test for each published mistake of shared/ANCHORS.md: right here, and the mistaken formula fails it."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import PretrainedConfig

from bon import BestOfNSampler, ClassifierReward, generate_candidates
from bon.estimators import best_of_n_mean
from bon.intervals import minimum_detectable_difference, paired_difference, required_prompts
from bon.kl import best_of_n_kl_bound, best_of_n_kl_exact, best_of_n_kl_levels, sequence_kl
from bon.likelihood import response_logits
from bon.selection import top_k

PROMPTS = [[10, 11, 12], [13], [14, 15, 16, 17, 18]]


class Sentiment(torch.nn.Module):
    """A classifier one can read: `good` and `bad` (tokens 3 and 4) push by 5 either way."""

    def __init__(self):
        super().__init__()
        self.config = PretrainedConfig(id2label={0: "NEGATIVE", 1: "POSITIVE"}, max_position_embeddings=64)
        self.device = torch.device("cpu")

    def forward(self, input_ids, attention_mask):
        push = (5.0 * (input_ids == 3) - 5.0 * (input_ids == 4)) * attention_mask
        return SimpleNamespace(logits=torch.stack([-push.sum(1), push.sum(1)], 1))


def test_1_a_surely_negative_text_scores_lower_than_a_surely_positive_one(tokenizer):
    texts = ["w10 good", "w10 bad", "w10 w11"]
    positive, negative, neither = ClassifierReward(Sentiment(), tokenizer, "POSITIVE")(texts)
    assert [positive, neither, negative] == pytest.approx([10.0, 0.0, -10.0])
    # TRL's example: the score of whichever class won, which is the same for the two.
    winning = [torch.tensor([-x / 2, x / 2]).softmax(0).max() for x in (positive, negative)]
    assert winning[0] == winning[1]


def test_1_sixteen_prompts_could_not_have_shown_the_difference():
    # The best of its three comparisons had t = 1.47 on 16 prompts: differences with that t, whatever their scale.
    noise = np.random.default_rng(0).normal(size=16)
    differences = (noise - noise.mean()) / noise.std(ddof=1) + 1.47 / 4
    result = paired_difference(differences, np.zeros(16), np.random.default_rng(0))
    assert result.low < 0 < result.high
    assert result.p_value > 0.05
    assert minimum_detectable_difference(differences) > differences.mean()
    assert required_prompts(differences, differences.mean()) == 59  # (2.80 / (1.47 / 4))^2 = 58.1


def test_2_sample_size_one_two_dimensional_tensors_and_scores_kept(gpt2, tokenizer):
    sampler = BestOfNSampler(gpt2, tokenizer, lambda texts: [len(t) for t in texts], lambda: 4, sample_size=1, seed=0)
    assert [len(row) for row in sampler.generate(torch.tensor([[10, 11], [12, 13]]))] == [1, 1]
    assert sampler.sample([10, 11]).scores["proxy"].shape == (1, 1)


def test_2_all_prompts_go_through_the_model_together(build_model, tokenizer):
    model = build_model("gpt2")
    rows = []
    model.register_forward_pre_hook(lambda module, args, kwargs: rows.append(kwargs["input_ids"].shape[0]), with_kwargs=True)
    steps = 6
    generate_candidates(model, tokenizer, [[10, 11 + i] for i in range(8)], 4, max_new_tokens=steps)
    # One prefill of 8 prompts and at most 5 steps of 32 candidates; one `generate` a prompt would be up to 8 * 6 calls.
    assert rows[0] == 8
    assert len(rows) <= steps
    assert set(rows[1:]) == {32}


def test_2_padding_is_masked(build_model, tokenizer, response_logits_unbatched):
    # Without attention mask and position ids, the shorter prompts would be read with padding in front.
    model = build_model("gpt2", spread=0.4)
    candidates = generate_candidates(model, tokenizer, PROMPTS, 3, max_new_tokens=5, max_batch_tokens=10_000)
    for p, c in np.ndindex(3, 3):
        response = candidates.token_ids[p, c, : candidates.lengths[p, c]].copy()  # a pool's own cannot be written to
        logprobs = response_logits_unbatched(model, PROMPTS[p], response).double().log_softmax(-1)
        assert candidates.logprobs[p, c] == pytest.approx(float(logprobs[range(len(response)), response].sum()), abs=1e-4)
    # The mistaken way gives something else for the short prompt, so the comparison above can tell.
    row = int(candidates.token_ids[1, 0, 0])
    with torch.no_grad():
        unmasked = model(input_ids=torch.tensor([[0, 0, 0, 0, *PROMPTS[1]]])).logits[0, -1].log_softmax(-1)[row]
    right = response_logits_unbatched(model, PROMPTS[1], [row])[0].log_softmax(-1)[row]
    assert abs(float(unmasked - right)) > 0.01


def test_2_the_callers_global_random_state_stays_as_it_was(gpt2, tokenizer):
    def states():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002

    before = states()
    sampler = BestOfNSampler(gpt2, tokenizer, lambda texts: [len(t) for t in texts], lambda: 4, seed=42)
    sampler.generate(PROMPTS)
    assert states() == before


def test_3_kl_counts_response_tokens_only(build_model, tokenizer):
    policy, reference = build_model("gpt2", seed=1), build_model("gpt2", seed=2)
    candidates = generate_candidates(policy, tokenizer, PROMPTS, 2, max_new_tokens=4)
    result = sequence_kl(policy, reference, candidates)
    for p, c in np.ndindex(3, 2):
        prompt, response = PROMPTS[p], candidates.token_ids[p, c, : candidates.lengths[p, c]].tolist()
        ids = torch.tensor([prompt + response])
        with torch.no_grad():
            ours, theirs = (model(input_ids=ids).logits[0, :-1].double().log_softmax(-1) for model in (policy, reference))
        token_kl = (ours.exp() * (ours - theirs)).sum(-1)
        assert result.rao_blackwell[p, c] == pytest.approx(float(token_kl[len(prompt) - 1 :].sum()), abs=1e-4)
        if len(prompt) > 1:
            assert float(token_kl.sum()) > result.rao_blackwell[p, c] + 0.01


def test_3_the_first_logits_used_are_those_behind_the_last_prompt_token(build_model, tokenizer):
    model = build_model("gpt2")
    candidates = generate_candidates(model, tokenizer, PROMPTS[2:], 1, max_new_tokens=4)
    (_, ids, inside, logits) = next(iter(response_logits(model, candidates)))
    assert ids.shape == inside.shape == logits.shape[:2] == (1, 4)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([PROMPTS[2]])).logits[0, -1]
    torch.testing.assert_close(logits[0, 0], expected, atol=1e-5, rtol=0)


def test_4_best_of_all_is_the_maximum_and_the_first_n_are_not_all_subsets():
    scores = np.random.default_rng(0).normal(size=(200, 16))
    ours = best_of_n_mean(scores)
    np.testing.assert_allclose(ours[:, -1], scores.max(1))
    # verl: n draws with replacement miss the maximum with probability (1 - 1/N)^N: biased low near N.
    rng = np.random.default_rng(1)
    with_replacement = scores[np.arange(200)[:, None, None], rng.integers(0, 16, (200, 400, 16))].max(2).mean(1)
    assert with_replacement.mean() < ours[:, -1].mean() - 0.05
    # search-and-learn: the maximum of the first n. Over prompts it varies more than the mean over all subsets.
    first_four = scores[:, :4].max(1)
    assert first_four.mean() == pytest.approx(ours[:, 3].mean(), abs=4 * first_four.std() / np.sqrt(200))
    assert ours[:, 3].std() < 0.7 * first_four.std()


def test_5_gold_moves_with_the_answers_and_the_proxy(make_pool):
    pool = make_pool([[0.0, 2.0, 1.0]]).with_scores(gold=np.array([[5.0, 6.0, 7.0]]))
    best = top_k(pool, 3)
    assert best.scores["gold"].tolist() == [[6.0, 7.0, 5.0]]
    assert best.texts.tolist() == [[" response 0.1", " response 0.2", " response 0.0"]]
    # The estimator reads gold through the same order: best of 3 has the gold reward of the best by proxy, not the last.
    assert best_of_n_mean(pool.scores["proxy"], pool.scores["gold"])[0, 2] == 6.0


def test_6_policies_are_not_compared_under_two_samplers(gpt2, tokenizer):
    candidates = generate_candidates(gpt2, tokenizer, PROMPTS, 2, max_new_tokens=3, temperature=0.7)
    assert candidates.metadata["sampling"]["temperature"] == 0.7
    with pytest.raises(ValueError, match="compare policies at one"):
        sequence_kl(gpt2, gpt2, candidates, temperature=1.0)


def test_6_what_no_option_sets_is_the_whole_distribution(gpt2, tokenizer, response_logits_unbatched):
    # Transformers' own default would cut to the 50 most likely of these 80 tokens; no draw may be warped.
    candidates = generate_candidates(gpt2, tokenizer, [[10, 11]], 400, max_new_tokens=1)
    np.testing.assert_array_equal(candidates.logprobs, candidates.raw_logprobs)
    ranks = response_logits_unbatched(gpt2, [10, 11], [0])[0].argsort(descending=True).argsort()
    assert ranks[candidates.token_ids[0, :, 0].copy()].max() >= 50


def test_7_the_bound_is_not_what_a_pool_with_ties_measures():
    # Rewards of 0 or 1: the pool's own estimate finds what the formula overstates by half a nat.
    scores = np.random.default_rng(0).integers(0, 2, (100, 64)).astype(float)
    estimate = best_of_n_kl_levels(scores)[:, 7].mean()
    assert estimate == pytest.approx(best_of_n_kl_exact([0.5, 0.5], [0.0, 1.0], 8), abs=0.03)
    assert estimate < best_of_n_kl_bound(8) - 0.5


def test_7_the_formula_is_a_bound_and_not_the_kl():
    # One response of probability 0.9: best of 8 cannot move far, the formula says 1.2 nats.
    exact = best_of_n_kl_exact([0.9, 0.1], [0.0, 1.0], 8)
    assert exact < 0.6 * best_of_n_kl_bound(8)
    # Only ties: nothing moves at all.
    assert best_of_n_kl_exact([0.5, 0.5], [1.0, 1.0], 8) == 0.0
    assert best_of_n_kl_bound(8) > 1.2


def test_8_greedy_decoding_of_several_candidates_is_an_error(gpt2, tokenizer):
    with pytest.raises(ValueError, match="do_sample=False draws the same text 4 times"):
        generate_candidates(gpt2, tokenizer, PROMPTS, 4, do_sample=False, max_new_tokens=3)
    sampler = BestOfNSampler(gpt2, tokenizer, lambda texts: [0.0] * len(texts), lambda: 3)
    with pytest.raises(ValueError, match="do_sample=False"):
        sampler.generate(PROMPTS, do_sample=False)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"temperature": 0.5},
        {"top_k": 5},
        {"top_p": 0.5},
        {"max_new_tokens": 5},
        {"min_length": 7},
        {"repetition_penalty": 2.0},
        {"suppress_tokens": [1]},
        {"eos_token_id": [1, 20]},
        {"sequence_bias": {(20,): 3.0}},
        {"exponential_decay_length_penalty": (1, 1.5)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_9_a_pool_records_everything_about_its_sampling_that_a_cache_key_needs(gpt2, tokenizer, change):
    def identity(**options):
        metadata = generate_candidates(gpt2, tokenizer, PROMPTS, 1, **{"max_new_tokens": 4, **options}).metadata
        return {key: metadata[key] for key in ("seed", "sampling", "dtype")}

    assert identity() == identity()
    assert identity(**change) != identity()
