"""Optimal stopping: the expected improvement, the rule, and what it draws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pool_checks import PROMPTS, last_number
from scipy import integrate, stats

from bon import RewardError, generate_candidates, score_candidates
from bon.adaptive.optimal_stopping import draw_while_worth, expected_improvement, replay_stopping, stopping_counts
from bon.estimators.thresholds import excess_threshold
from bon.selection import best_of_n


@pytest.mark.parametrize("count", [3, 5, 40])
def test_expected_improvement_is_the_integral_over_the_predictive_density(count):
    scores = np.random.default_rng(count).normal(2.0, 3.0, size=count)
    predictive = stats.t(count - 1, scores.mean(), scores.std(ddof=1) * np.sqrt(1 + 1 / count))
    best = scores.max()
    integral = integrate.quad(lambda x: (x - best) * predictive.pdf(x), best, np.inf)[0]
    assert float(expected_improvement(scores)) == pytest.approx(integral, rel=1e-6)


def test_with_normal_scores_it_is_on_average_the_improvement_that_comes():
    # Next to the truth: E[max(X_{m+1} - max of m, 0)] over many samples of normal scores.
    rng, count = np.random.default_rng(0), 12
    scores = rng.normal(size=(40_000, count + 1))
    came = np.maximum(scores[:, -1] - scores[:, :-1].max(axis=1), 0)
    predicted = expected_improvement(scores[:, :-1])
    error = np.hypot(came.std(), predicted.std()) / np.sqrt(len(scores))
    # Unknown mean and variance make the prediction cautious: it is above, by less than a fifth.
    assert came.mean() - 4 * error < predicted.mean() < 1.2 * came.mean() + 4 * error


scores_lists = st.lists(st.integers(-50, 50).map(lambda i: i / 4), min_size=3, max_size=12)


@given(scores=scores_lists, shift=st.integers(-99, 99), scale=st.integers(1, 64), order=st.randoms())
def test_improvement_is_in_units_of_the_score_and_knows_no_order(scores, shift, scale, order):
    gain = float(expected_improvement(scores))
    assert gain >= 0
    assert float(expected_improvement(np.array(scores) * scale + shift)) == pytest.approx(gain * scale, rel=1e-6, abs=1e-9)
    shuffled = list(scores)
    order.shuffle(shuffled)
    assert float(expected_improvement(shuffled)) == pytest.approx(gain, rel=1e-6, abs=1e-12)


def test_equal_scores_promise_nothing():
    assert expected_improvement(np.full((2, 5), 3.25)).tolist() == [0.0, 0.0]


def test_the_rule_by_hand_is_the_first_look_at_which_improvement_is_not_worth_its_cost():
    scores = np.random.default_rng(1).normal(size=(30, 40))
    for cost, minimum, every in ((0.05, 4, 1), (0.02, 8, 4), (0.2, 3, 7)):
        counts = stopping_counts(scores, cost, minimum=minimum, every=every)
        for row, count in zip(scores, counts, strict=True):
            looks = range(minimum, 40, every)
            assert count == next((m for m in looks if float(expected_improvement(row[:m])) <= cost), 40)
        assert len(set(counts.tolist())) > 1


def test_dearer_candidates_are_fewer_and_the_ends_are_all_and_the_fewest():
    scores = np.random.default_rng(2).normal(size=(50, 64))
    counts = [stopping_counts(scores, cost, minimum=5) for cost in (1e-9, 0.01, 0.03, 0.1, 1e9)]
    assert (np.diff(counts, axis=0) <= 0).all()
    assert (counts[0] == 64).all()
    assert (counts[-1] == 5).all()


def test_it_gains_over_the_best_fixed_n_more_than_half_of_what_weitzmans_rule_gains():
    # The rule that knows the distribution stops at the first score above its reservation value.
    rng, cost = np.random.default_rng(3), 0.03
    spread = np.repeat([0.3, 1.0, 3.0], 500)[:, None]  # prompts differ in how much there is to gain
    scores = rng.normal(size=(1500, 400)) * spread
    reservation = np.array([float(excess_threshold(stats.norm.ppf((np.arange(4000) + 0.5) / 4000) * s, cost)[0])
                            for s in (0.3, 1.0, 3.0)])  # fmt: skip
    known = 1 + (scores >= np.repeat(reservation, 500)[:, None]).argmax(axis=1)
    learnt = stopping_counts(scores, cost, minimum=4)

    def net(counts):
        inside = np.arange(400) < np.asarray(counts)[:, None]
        return (np.where(inside, scores, -np.inf).max(axis=1) - cost * np.asarray(counts)).mean()

    fixed = max(net(np.full(1500, n)) for n in (1, 2, 4, 8, 16, 32, 64))
    assert (fixed + net(known)) / 2 < net(learnt) < net(known)


def test_what_is_drawn_is_the_beginning_of_the_full_pool(gpt2, tokenizer):
    options = {"max_new_tokens": 4, "seed": 3, "temperature": 1.2}
    full = score_candidates(generate_candidates(gpt2, tokenizer, PROMPTS, 40, **options), proxy=last_number)
    for cost, minimum, every in ((1.5, 4, 4), (0.8, 3, 5), (1e-9, 8, 16), (1e9, 8, 16)):
        found = draw_while_worth(gpt2, tokenizer, PROMPTS, 40, last_number, cost=cost, minimum=minimum, every=every, **options)
        replayed = replay_stopping(full, cost=cost, minimum=minimum, every=every)
        np.testing.assert_array_equal(found.drawn, stopping_counts(full.scores["proxy"], cost, minimum=minimum, every=every))
        for p, count in enumerate(found.drawn):
            best = best_of_n(full.rows(np.array([p])), int(count))
            assert found.best.texts[p].tolist() == best.texts[0].tolist()
            assert found.best.scores["proxy"][p, 0] == best.scores["proxy"][0, 0]
            assert list(found.best.prompt_token_ids[p]) == PROMPTS[p]
            assert found.tokens[p] == full.lengths[p, :count].sum()
        assert found.best.metadata["tokens"] == found.tokens.sum()
        for column in ("drawn", "tokens"):
            np.testing.assert_array_equal(getattr(found, column), getattr(replayed, column))
        assert found.best.texts.tolist() == replayed.best.texts.tolist()
        saved, expected = found.savings(full), 1 - found.tokens.sum() / full.lengths.sum()
        assert saved.tokens_saved == pytest.approx(expected)
        np.testing.assert_array_equal(saved.reward_lost, full.scores["proxy"].max(1) - found.best.scores["proxy"][:, 0])
    assert found.drawn.tolist() == [8] * 5


def test_prompts_stop_on_their_own_and_cost_nothing_from_then_on(gpt2, tokenizer):
    asked = []

    def reward(texts):
        asked.append(len(texts))
        return last_number(texts)

    found = draw_while_worth(gpt2, tokenizer, PROMPTS, 32, reward, cost=1.2, minimum=4, every=4, max_new_tokens=4, seed=5)
    assert len(set(found.drawn.tolist())) > 1
    assert sum(asked) == found.drawn.sum()


@pytest.mark.parametrize("options", [{"response_lengths": [2, 4, 1, 3, 5]}, {"prompt_ids": [9, 4, 7, 0, 2]}], ids=str)
def test_what_belongs_to_a_prompt_stays_with_it(gpt2, tokenizer, options):
    shared = {"max_new_tokens": 4, "seed": 6, **options}
    full = score_candidates(generate_candidates(gpt2, tokenizer, PROMPTS, 24, **shared), proxy=last_number)
    found = draw_while_worth(gpt2, tokenizer, PROMPTS, 24, last_number, cost=1.2, minimum=4, every=4, **shared)
    replayed = replay_stopping(full, cost=1.2, minimum=4, every=4)
    assert len(set(found.drawn.tolist())) > 1
    assert found.best.texts.tolist() == replayed.best.texts.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cost": 0.0}, "cost must be finite and > 0, got 0"),
        ({"cost": float("nan")}, "cost must be finite"),
        ({"minimum": 2}, r"minimum must lie in 3\.\.16 \(the most candidates\), got 2"),
        ({"minimum": 17}, "minimum must lie"),
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"prompt_ids": [1]}, "1 prompt_ids for 5 prompts"),
        ({"max_new_tokens": None}, "set max_new_tokens"),
    ],
)
def test_what_has_no_meaning_is_refused(gpt2, tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        draw_while_worth(gpt2, tokenizer, PROMPTS, 16, last_number, **{"cost": 1.0, "max_new_tokens": 4, **options})


def test_too_few_scores_or_wrong_ones_are_refused():
    for scores in ([1.0, 2.0], [1.0, 2.0, float("nan")], 3.0):
        with pytest.raises(ValueError, match="need at least 3 finite scores"):
            expected_improvement(scores)
    with pytest.raises(ValueError, match=r"must be \[prompts, candidates\]"):
        stopping_counts([1.0, 2.0, 3.0], 1.0, minimum=3)


def test_a_reward_that_fails_leaves_the_candidates_of_that_look(gpt2, tokenizer):
    with pytest.raises(RewardError) as caught:
        draw_while_worth(gpt2, tokenizer, PROMPTS, 16, lambda texts: [None] * len(texts), cost=1.0, max_new_tokens=3)
    assert caught.value.candidates.num_candidates == 8


def test_a_reward_that_fails_later_leaves_the_best_before_in_front(gpt2, tokenizer):
    looks = []

    def failing(texts):
        looks.append(texts)
        return [None] * len(texts) if len(looks) > 1 else last_number(texts)

    with pytest.raises(RewardError) as caught:
        draw_while_worth(gpt2, tokenizer, PROMPTS, 16, failing, cost=1e-9, minimum=4, every=3, seed=5, max_new_tokens=3)
    full = score_candidates(generate_candidates(gpt2, tokenizer, PROMPTS, 7, seed=5, max_new_tokens=3), proxy=last_number)
    best = best_of_n(full.first(4))
    assert caught.value.candidates.texts.tolist() == [
        [*first, *more] for first, more in zip(best.texts.tolist(), full.texts[:, 4:].tolist(), strict=True)
    ]
