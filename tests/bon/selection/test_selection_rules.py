"""What all selection rules owe: probabilities, one draw that follows them, and indifference to what should not matter."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from bon.selection import (
    BestOfN,
    BestOfPoisson,
    ChiSquaredBestOfN,
    InferenceTimePessimism,
    KLRegularizedBestOfN,
    MBRBestOfN,
    Medoid,
    SelectionRule,
    SoftBestOfN,
    TopK,
    best_of_n,
    same_tokens,
    top_k,
    unigram_cosine,
)

RANDOM = [SoftBestOfN(0.7), BestOfPoisson(2.0), ChiSquaredBestOfN(0.6), InferenceTimePessimism(0.6)]
CERTAIN = [BestOfN(), KLRegularizedBestOfN(0.5), Medoid(), Medoid(same_tokens), MBRBestOfN(1.5)]
RULES = [*RANDOM, *CERTAIN]
different_scores = arrays(np.int64, (2, 7), elements=st.integers(-40, 40), unique=True).map(lambda a: a / 8)


def name(rule):
    return type(rule).__name__


@pytest.fixture
def pool(make_pool):
    scores = np.random.default_rng(3).normal(size=(3, 8))
    return make_pool(scores).with_scores(gold=scores**2)


@pytest.mark.parametrize("rule", RULES, ids=name)
def test_probabilities_are_a_distribution_and_the_mean_is_their_average(pool, rule):
    probabilities = rule.probabilities(pool)
    assert probabilities.shape == (3, 8)
    assert (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-12)
    by_hand = [sum(p * g for p, g in zip(*row, strict=True)) for row in zip(probabilities, pool.scores["gold"], strict=True)]
    np.testing.assert_allclose(rule.mean(pool, "gold"), by_hand)


@pytest.mark.parametrize("rule", RANDOM, ids=name)
def test_what_is_drawn_follows_the_probabilities(make_pool, rule):
    scores, draws = np.random.default_rng(4).normal(size=7), 5000
    pool = make_pool(np.tile(scores, (draws, 1)))
    chosen = pool.select(rule, np.random.default_rng(5))
    expected = rule.probabilities(pool)[0]
    counts = Counter(text.rsplit(".")[-1] for text in chosen.texts[:, 0])
    observed = np.array([counts[str(c)] for c in range(7)])
    assert observed[expected == 0].sum() == 0
    assert stats.chisquare(observed[expected > 0], draws * expected[expected > 0]).pvalue > 1e-3


@pytest.mark.parametrize("rule", RANDOM, ids=name)
def test_a_random_choice_is_fixed_by_its_generator_and_refused_without_one(pool, rule):
    one, two = (pool.select(rule, np.random.default_rng(6)) for _ in range(2))
    assert one.texts.tolist() == two.texts.tolist()
    with pytest.raises(ValueError, match=rf"{name(rule)}\(.*\) chooses at random: pass rng="):
        pool.select(rule)


@pytest.mark.parametrize("rule", [*CERTAIN, TopK(3)], ids=name)
def test_a_certain_choice_needs_no_generator_and_leaves_one_alone(pool, rule):
    rng = np.random.default_rng(7)
    before = rng.bit_generator.state
    assert pool.select(rule, rng).texts.tolist() == pool.select(rule).texts.tolist()
    assert rng.bit_generator.state == before


def test_select_moves_every_column_and_reads_nothing_but_the_pool(pool):
    chosen = pool.select(BestOfN())
    best = pool.scores["proxy"].argmax(axis=1)
    assert chosen.texts[:, 0].tolist() == [f" response {p}.{c}" for p, c in enumerate(best)]
    np.testing.assert_array_equal(chosen.scores["gold"][:, 0], pool.scores["gold"][np.arange(3), best])
    assert chosen.texts.tolist() == best_of_n(pool).texts.tolist()
    assert pool.select(TopK(3)).texts.tolist() == top_k(pool, 3).texts.tolist()
    assert pool.num_candidates == 8


@pytest.mark.parametrize("rule", [SoftBestOfN(0.7), BestOfPoisson(2.0), ChiSquaredBestOfN(0.6), BestOfN()], ids=name)
@given(scores=different_scores, order=st.permutations(range(7)))
def test_the_order_of_the_draws_does_not_matter(make_pool, rule, scores, order):
    np.testing.assert_allclose(
        rule.probabilities(make_pool(scores[:, order])), rule.probabilities(make_pool(scores))[:, order], atol=1e-12
    )


@pytest.mark.parametrize("rule", [*RANDOM, BestOfN()], ids=name)
@given(scores=different_scores, shift=st.integers(-1000, 1000))
def test_a_constant_added_to_all_scores_does_not_matter(make_pool, rule, scores, shift):
    np.testing.assert_allclose(rule.probabilities(make_pool(scores + shift)), rule.probabilities(make_pool(scores)), atol=1e-9)


@given(scores=different_scores, scale=st.floats(0.01, 100))
def test_parameters_are_in_units_of_the_score(make_pool, scores, scale):
    pool, scaled = make_pool(scores), make_pool(scores * scale)
    for rule in (SoftBestOfN, ChiSquaredBestOfN, InferenceTimePessimism):
        np.testing.assert_allclose(
            rule(0.6 * scale).probabilities(scaled), rule(0.6).probabilities(pool), atol=1e-9, err_msg=rule.__name__
        )
    np.testing.assert_array_equal(
        BestOfPoisson(2.0).probabilities(make_pool(np.exp(scores))), BestOfPoisson(2.0).probabilities(pool)
    )


@given(scores=different_scores)
def test_the_ends_of_every_parameter_are_hard_best_of_n_and_the_policy_itself(make_pool, scores):
    pool = make_pool(scores)
    hard, uniform = BestOfN().probabilities(pool), np.full((2, 7), 1 / 7)
    for rule in (SoftBestOfN(1e-3), BestOfPoisson(500.0), ChiSquaredBestOfN(1e-3)):
        np.testing.assert_allclose(rule.probabilities(pool), hard, atol=1e-12, err_msg=str(rule))
    for rule in (SoftBestOfN(1e6), BestOfPoisson(0.0), ChiSquaredBestOfN(1e6)):
        np.testing.assert_allclose(rule.probabilities(pool), uniform, atol=1e-4, err_msg=str(rule))
    for rule in (KLRegularizedBestOfN(0.0), MBRBestOfN(0.0)):
        np.testing.assert_array_equal(rule.probabilities(pool), hard)
    # No two responses of this pool are the same: all are equally alike, and the score decides.
    np.testing.assert_array_equal(MBRBestOfN(1e3, same_tokens).probabilities(pool), hard)


def test_equal_scores_go_to_the_first_drawn_where_one_must_be_chosen(make_pool):
    pool = make_pool([[1.0, 2.0, 2.0, 0.0]])
    assert BestOfN().probabilities(pool).tolist() == [[0.0, 1.0, 0.0, 0.0]]
    # Two of four without the other best: the first of the equals wins any subset that holds it.
    # n = 2: subsets {1,2},{1,0'},{1,3},... the second drawn is in 3 of 6, the third without it in 2 of 6, the first in 1.
    mu = 1e-9  # n = 2 with probability mu, else 1
    second = (BestOfPoisson(mu).probabilities(pool)[0] - 0.25) / mu + 0.25
    np.testing.assert_allclose(second, [1 / 6, 3 / 6, 2 / 6, 0], atol=1e-5)


def test_kl_regularised_by_hand_and_by_each_reference(make_pool):
    pool = make_pool([[3.0, 2.0, 0.0]], logprobs=np.array([[-9.0, -4.0, -1.0]]), raw_logprobs=np.array([[-1.0, -4.0, -9.0]]))
    # 3 - 9c, 2 - 4c, 0 - c: the first to c = 0.2, the second to c = 2/3, then the most likely.
    winners = {0.0: 0, 0.19: 0, 0.21: 1, 0.66: 1, 0.67: 2, 100.0: 2}
    for coefficient, winner in winners.items():
        assert KLRegularizedBestOfN(coefficient).probabilities(pool)[0].argmax() == winner, coefficient
    assert KLRegularizedBestOfN(100.0, "raw_logprobs").probabilities(pool)[0].argmax() == 0
    with pytest.raises(ValueError, match="no ref_logprobs"):
        pool.select(KLRegularizedBestOfN(1.0, "ref_logprobs"))
    with_reference = pool.with_ref_logprobs(np.array([[-5.0, 0.0, -5.0]]))
    assert KLRegularizedBestOfN(100.0, "ref_logprobs").probabilities(with_reference)[0].argmax() == 1


def test_unigram_cosine_is_the_cosine_of_token_counts():
    rng = np.random.default_rng(8)
    responses = [rng.integers(0, 12, length).tolist() for length in (1, 5, 9, 14, 3)]
    counts = torch.tensor(np.array([np.bincount(row, minlength=12) for row in responses]), dtype=torch.float64)
    peer = torch.nn.functional.cosine_similarity(counts[:, None], counts[None], dim=-1)
    np.testing.assert_allclose(unigram_cosine(responses), peer.numpy(), atol=1e-12)


def test_the_majority_is_the_most_frequent_response_and_padding_does_not_vote(make_pool):
    token_ids = np.array([[[7, 7, 0], [5, 6, 0], [5, 6, 9], [5, 6, 8], [7, 7, 1]]], dtype=np.int32)
    pool = make_pool(prompts=1, candidates=5, token_ids=token_ids, lengths=np.array([[2, 2, 2, 3, 3]], dtype=np.int32))
    # Without what lies beyond the lengths: 7 7 | 5 6 | 5 6 | 5 6 8 | 7 7 1.
    assert Medoid(same_tokens).probabilities(pool).tolist() == [[0.0, 1.0, 0.0, 0.0, 0.0]]


def test_the_medoid_minimises_the_summed_distance_and_mbr_trades_it_for_score(make_pool):
    points = np.array([0.0, 1.0, 4.0, 5.0, 5.5])
    pool = make_pool(points[None])

    def similarity(responses):
        return -np.abs(points[:, None] - points[None])

    assert Medoid(similarity).probabilities(pool)[0].argmax() == 2  # the median
    # Mean distances 3.1, 2.5, 1.9, 2.1, 2.4: 5.5 - 2.4 c, 5 - 2.1 c and 4 - 1.9 c cross at 5/3 and 5.
    for coefficient, winner in {0.0: 4, 1.6: 4, 1.7: 3, 4.9: 3, 5.1: 2, 1e9: 2}.items():
        assert MBRBestOfN(coefficient, similarity).probabilities(pool)[0].argmax() == winner, coefficient


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SoftBestOfN(0.0), "temperature must be finite and > 0, got 0"),
        (lambda: SoftBestOfN(float("nan")), "temperature must be finite"),
        (lambda: BestOfPoisson(-1.0), "mu must be finite and >= 0, got -1"),
        (lambda: ChiSquaredBestOfN(0.0), "coefficient must be finite and > 0"),
        (lambda: InferenceTimePessimism(-2.0), "coefficient must be finite and > 0"),
        (lambda: KLRegularizedBestOfN(-0.1), "coefficient must be finite and >= 0"),
        (lambda: KLRegularizedBestOfN(0.1, "probs"), "reference must be logprobs, .* got 'probs'"),
        (lambda: MBRBestOfN(float("inf")), "coefficient must be finite"),
    ],
)
def test_parameters_out_of_range_are_refused_at_construction(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_pools_that_a_rule_cannot_read_are_refused(make_pool, pool):
    with pytest.raises(ValueError, match="at least 3 candidates a prompt, got 2"):
        pool.first(2).select(InferenceTimePessimism(1.0), np.random.default_rng(0))
    with pytest.raises(ValueError, match="max_reward is -5"):
        pool.select(InferenceTimePessimism(1.0, max_reward=-5.0), np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"finite numbers \[8, 8\], got shape \(8,\)"):
        pool.select(Medoid(lambda responses: np.zeros(8)))
    with pytest.raises(ValueError, match="no score 'silver'"):
        pool.select(SoftBestOfN(1.0, by="silver"), np.random.default_rng(0))
    assert pool.select(TopK(1, by="gold")).scores["gold"].ravel().tolist() == pool.scores["gold"].max(axis=1).tolist()


@pytest.mark.parametrize("row", [[0.5, 0.4, 0.0], [1.5, -0.5, 0.0], [np.nan, 1.0, 0.0]], ids=["too little", "negative", "NaN"])
def test_probabilities_that_are_none_are_refused(make_pool, row):
    class Wrong(SelectionRule):
        def probabilities(self, candidates):
            return np.array([[0.0, 0.0, 1.0], row])

    pool = make_pool(np.ones((2, 3)))
    for call in (lambda: Wrong().indices(pool, np.random.default_rng(0)), lambda: Wrong().mean(pool)):
        with pytest.raises(ValueError, match="gave probabilities for prompt 1 that are negative, NaN, or sum to"):
            call()
