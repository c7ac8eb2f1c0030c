"""KL of best-of-n against n-fold enumeration; KL of a tuned policy against enumeration of all its responses."""

import copy
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bon import Candidates, generate_candidates
from bon.kl import best_of_n_kl_beirami, best_of_n_kl_bound, best_of_n_kl_exact, sequence_kl
from bon.likelihood import sequence_logprobs


def kl_by_enumeration(probs, scores, n):
    """Draw n outcomes in all K^n ways, return the best, ties uniformly among the draws: KL of what comes out."""
    selected = np.zeros(len(probs))
    for draws in product(range(len(probs)), repeat=n):
        best = max(scores[i] for i in draws)
        tied = [i for i in draws if scores[i] == best]
        for i in tied:
            selected[i] += np.prod([probs[j] for j in draws]) / len(tied)
    assert selected.sum() == pytest.approx(1.0)
    inside = selected > 0
    return float(np.sum(selected[inside] * np.log(selected[inside] / np.asarray(probs)[inside])))


POLICIES = {
    "no ties": ([0.2, 0.5, 0.3], [1.0, 0.0, 2.0]),
    "tie at the top": ([0.2, 0.5, 0.3], [1.0, 0.0, 1.0]),
    "tie at the bottom": ([0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 2.0, 1.0]),
    "all tied": ([0.1, 0.2, 0.7], [5.0, 5.0, 5.0]),
    "two pairs": ([0.05, 0.15, 0.3, 0.1, 0.4], [1.0, 2.0, 1.0, 2.0, 0.0]),
    "an impossible outcome": ([0.5, 0.0, 0.25, 0.25], [0.0, 9.0, 1.0, 1.0]),
    "six": ([0.3, 0.05, 0.1, 0.15, 0.2, 0.2], [0.0, 3.0, 1.0, 3.0, -2.0, 1.0]),
}


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_exact_kl_is_that_of_n_fold_enumeration(name, n):
    probs, scores = POLICIES[name]
    assert best_of_n_kl_exact(probs, scores, n) == pytest.approx(kl_by_enumeration(probs, scores, n), abs=1e-12)


def test_sampled_best_of_n_converges_to_the_exact_law():
    # The plug-in KL of the empirical law of 200,000 selections is off by about K / (2 * 200,000) and by noise of about 0.002.
    probs, scores = POLICIES["six"]
    rng = np.random.default_rng(0)
    draws = rng.choice(6, p=probs, size=(200_000, 4))
    noisy = np.asarray(scores)[draws] + 1e-9 * rng.random(draws.shape)  # breaks ties uniformly
    selected = np.take_along_axis(draws, noisy.argmax(1)[:, None], 1)[:, 0]
    law = np.bincount(selected, minlength=6) / len(selected)
    assert np.sum(law * np.log(law / probs)) == pytest.approx(best_of_n_kl_exact(probs, scores, 4), abs=0.006)


finite_policies = st.integers(1, 6).flatmap(
    lambda size: st.tuples(
        st.lists(st.integers(1, 1000), min_size=size, max_size=size),
        st.lists(st.integers(0, 4), min_size=size, max_size=size),
    )
)


@given(finite_policies, st.integers(1, 10_000))
def test_exact_kl_lies_between_zero_and_the_bound(policy, n):
    mass, scores = np.array(policy[0], dtype=float), policy[1]
    exact = best_of_n_kl_exact(mass / mass.sum(), scores, n)
    assert 0.0 <= exact <= best_of_n_kl_bound(n) + 1e-12


@given(finite_policies, st.integers(1, 200))
def test_exact_kl_grows_with_n_up_to_the_surprise_of_the_best_level(policy, n):
    probs, scores = np.array(policy[0], dtype=float) / sum(policy[0]), np.array(policy[1])
    now, later = best_of_n_kl_exact(probs, scores, n), best_of_n_kl_exact(probs, scores, n + 1)
    assert now <= later + 1e-12
    assert later <= -np.log(probs[scores == scores.max()].sum()) + 1e-9


@pytest.mark.parametrize("n", [2, 8, 64])
def test_bound_is_approached_as_all_outcomes_become_unlikely(n):
    gaps = [best_of_n_kl_bound(n) - best_of_n_kl_exact(np.full(k, 1 / k), np.arange(k), n) for k in (100, 1000, 10_000)]
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[2] < 5e-4


def test_bound_by_hand():
    np.testing.assert_allclose(best_of_n_kl_bound([1, 2, 4]), [0.0, np.log(2) - 0.5, np.log(4) - 0.75])


def test_only_the_order_of_scores_matters_to_the_exact_kl():
    probs, scores = POLICIES["six"]
    assert best_of_n_kl_exact(probs, np.exp(scores), 3) == pytest.approx(best_of_n_kl_exact(probs, scores, 3), abs=1e-14)


@given(st.integers(1, 5000), st.floats(1e-6, 1.0))
def test_beirami_is_exact_where_only_the_best_response_is_likely(n, eps):
    # The law behind Eq. 25: one best response of probability eps, the rest continuous. Its KL, integrated numerically:
    # best: q log(q / eps), q = 1 - (1 - eps)^n; the rest: integral of n F^(n-1) log(n F^(n-1)) over F in (0, 1 - eps).
    q = -np.expm1(n * np.log1p(-eps)) if eps < 1 else 1.0
    nodes, weights = np.polynomial.legendre.leggauss(200)
    # Substituting s = F^n turns n F^(n-1) dF into ds; with s = m exp(-x) the integrand is smooth.
    miss = (1 - eps) ** n
    x = 20 * (nodes + 1)
    density = miss * np.exp(-x)
    log_s = (n * np.log1p(-eps) - x) if eps < 1 else -np.inf * np.ones_like(x)
    rest = np.sum(20 * weights * density * (np.log(n) + (n - 1) / n * log_s)) if miss > 0 else 0.0
    assert best_of_n_kl_beirami(n, np.log(eps)) == pytest.approx(q * np.log(q / eps) + rest, abs=1e-7)


@pytest.mark.parametrize("n", [2, 5, 30])
@pytest.mark.parametrize("eps", [0.02, 0.3])
def test_beirami_agrees_with_the_exact_law_of_one_likely_and_many_unlikely_responses(n, eps):
    many = 20_000
    probs = np.append(np.full(many, (1 - eps) / many), eps)
    assert best_of_n_kl_beirami(n, np.log(eps)) == pytest.approx(best_of_n_kl_exact(probs, np.arange(many + 1), n), abs=2e-3)


@pytest.mark.parametrize("n", [2, 8, 64])
def test_beirami_averaged_over_selections_is_nearer_to_the_exact_kl_than_the_bound(n):
    # Six responses of different probability: draw, select, average Eq. 25 of what was selected. It errs upwards (it takes the
    # responses below the selected one for a continuum), and by less than half of what the bound does.
    rng = np.random.default_rng(1)
    probs = rng.dirichlet(np.ones(6))
    scores = rng.permutation(6)
    draws = rng.choice(6, p=probs, size=(20_000, n))
    selected = np.take_along_axis(draws, scores[draws].argmax(1)[:, None], 1)[:, 0]
    exact = best_of_n_kl_exact(probs, scores, n)
    estimate = best_of_n_kl_beirami(n, np.log(probs[selected])).mean()
    assert -0.002 < estimate - exact < 0.5 * (best_of_n_kl_bound(n) - exact)


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_beirami_limits(n):
    # Certain response: nothing to choose from. Vanishing one: the bound, also where exp underflows. n = 1: the policy itself.
    assert best_of_n_kl_beirami(n, 0.0) == 0.0
    assert best_of_n_kl_beirami(n, -40.0) == pytest.approx(best_of_n_kl_bound(n), abs=1e-9)
    assert best_of_n_kl_beirami(n, -2000.0) == pytest.approx(best_of_n_kl_bound(n), abs=1e-12)
    assert best_of_n_kl_beirami(1, np.log([0.001, 0.5, 0.999])) == pytest.approx(0.0, abs=1e-12)


@given(st.integers(1, 10_000), st.floats(-60, 0))
def test_beirami_lies_between_zero_and_the_bound(n, logprob):
    assert -1e-9 <= best_of_n_kl_beirami(n, logprob) <= best_of_n_kl_bound(n) + 1e-9


def test_beirami_broadcasts_n_against_responses():
    result = best_of_n_kl_beirami([[1], [4]], np.log([0.1, 0.2, 0.3]))
    assert result.shape == (2, 3)
    assert result[1, 2] == pytest.approx(float(best_of_n_kl_beirami(4, np.log(0.3))))


def test_bad_arguments_are_refused():
    for n in (0, -3, np.nan, np.inf):
        with pytest.raises(ValueError, match="n must be at least 1"):
            best_of_n_kl_bound(n)
    with pytest.raises(ValueError, match="best_logprob must be finite and at most 0"):
        best_of_n_kl_beirami(2, 0.5)
    with pytest.raises(ValueError, match="best_logprob must be finite"):
        best_of_n_kl_beirami(2, -np.inf)
    with pytest.raises(ValueError, match=r"sum to 1, got a sum of 0\.9"):
        best_of_n_kl_exact([0.5, 0.4], [0, 1], 2)
    with pytest.raises(ValueError, match="non-negative"):
        best_of_n_kl_exact([1.5, -0.5], [0, 1], 2)
    with pytest.raises(ValueError, match="scores must be finite"):
        best_of_n_kl_exact([0.5, 0.5], [0, np.nan], 2)
    with pytest.raises(ValueError, match=r"\[K\] with K >= 1, got shapes \(2,\) and \(3,\)"):
        best_of_n_kl_exact([0.5, 0.5], [0, 1, 2], 2)


# A policy and its reference over 6 tokens (one of them the end); responses of at most 3 tokens: 1 + 5 + 25 * 6 = 156 of them.
TOKENS, STEPS, EOS = 6, 3, 1
PROMPTS = [[4], [2, 3, 5, 3]]


@pytest.fixture(scope="module")
def policy(build_model):
    return build_model("gpt2", seed=1, vocabulary=TOKENS)


@pytest.fixture(scope="module")
def reference(policy):
    """The policy a few steps away, as before its tuning: a KL of 0.4 to 0.9 nats."""
    generator = torch.Generator().manual_seed(5)
    moved = copy.deepcopy(policy)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return moved


def next_token_logprobs(model, prefix, temperature):
    with torch.no_grad():
        ids = torch.tensor([prefix])
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1].double()
        return (logits / temperature).log_softmax(-1).numpy()


def all_responses(model, other, prompt, temperature=1.0):
    """Every response with its log-probability under both models, one unbatched forward pass a prefix."""
    found = []

    def grow(response, logprob, other_logprob):
        if len(response) == STEPS or (response and response[-1] == EOS):
            found.append((response, logprob, other_logprob))
            return
        ours, theirs = (next_token_logprobs(m, prompt + response, temperature) for m in (model, other))
        for token in range(TOKENS):
            grow([*response, token], logprob + ours[token], other_logprob + theirs[token])

    grow([], 0.0, 0.0)
    return found


def pool_of(prompts, responses, temperature=None, padding=0):
    """Candidates that hold these responses [P][N]."""
    shape = (len(prompts), len(responses[0]))
    token_ids = np.full((*shape, STEPS), padding, dtype=np.int32)
    lengths = np.zeros(shape, dtype=np.int32)
    for p, c in np.ndindex(shape):
        response = responses[p][c]
        token_ids[p, c, : len(response)] = response
        lengths[p, c] = len(response)
    return Candidates(
        prompts=[""] * len(prompts),
        prompt_token_ids=prompts,
        texts=np.full(shape, "", dtype=object),
        token_ids=token_ids,
        lengths=lengths,
        logprobs=np.zeros(shape),
        raw_logprobs=np.zeros(shape),
        metadata={} if temperature is None else {"sampling": {"temperature": temperature}},
    )


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_both_sequence_kls_have_the_enumerated_kl_as_their_mean_and_rao_blackwell_varies_less(policy, reference, temperature):
    everything = [all_responses(policy, reference, prompt, temperature) for prompt in PROMPTS]
    candidates = pool_of(PROMPTS, [[response for response, _, _ in rows] for rows in everything], temperature)
    result = sequence_kl(policy, reference, candidates)
    for p, rows in enumerate(everything):
        logprobs, ref_logprobs = (np.array([row[k] for row in rows]) for k in (1, 2))
        probability = np.exp(logprobs)
        assert probability.sum() == pytest.approx(1.0, abs=1e-5)
        exact = probability @ (logprobs - ref_logprobs)
        assert exact > 0.1
        np.testing.assert_allclose(result.logprobs[p], logprobs, atol=1e-4)
        np.testing.assert_allclose(result.ref_logprobs[p], ref_logprobs, atol=1e-4)
        assert probability @ result.monte_carlo[p] == pytest.approx(exact, abs=1e-4)
        assert probability @ result.rao_blackwell[p] == pytest.approx(exact, abs=1e-4)
        spread_mc, spread_rb = (probability @ (x[p] - exact) ** 2 for x in (result.monte_carlo, result.rao_blackwell))
        # Not a theorem: far policies whose responses end early can turn it round. Near ones, as here, never came close.
        assert spread_rb < 0.2 * spread_mc
        assert (result.rao_blackwell[p] >= 0).all()
        assert (result.monte_carlo[p] < 0).any()


def test_sampled_candidates_estimate_the_enumerated_kl(policy, reference, tokenizer):
    candidates = generate_candidates(policy, tokenizer, PROMPTS, 1000, max_new_tokens=STEPS, seed=3)
    result = sequence_kl(policy, reference, candidates)
    for p, prompt in enumerate(PROMPTS):
        exact = sum(np.exp(ours) * (ours - theirs) for _, ours, theirs in all_responses(policy, reference, prompt))
        for estimate in (result.monte_carlo[p], result.rao_blackwell[p]):
            assert estimate.mean() == pytest.approx(exact, abs=4 * estimate.std() / np.sqrt(1000))


def test_sequence_kl_of_a_policy_from_itself_is_zero(policy, tokenizer):
    candidates = generate_candidates(policy, tokenizer, PROMPTS, 20, max_new_tokens=STEPS)
    result = sequence_kl(policy, policy, candidates)
    assert not result.monte_carlo.any()
    assert not result.rao_blackwell.any()
    np.testing.assert_allclose(result.logprobs, candidates.logprobs, atol=1e-4)


def test_sequence_kl_does_not_depend_on_batches_padding_or_the_other_prompts(policy, reference, tokenizer, build_tokenizer):
    prompts = [[4], [2, 3, 5, 3], [3, 3], [5]]
    candidates = generate_candidates(policy, tokenizer, prompts, 15, max_new_tokens=STEPS, seed=2)
    whole = sequence_kl(policy, reference, candidates)
    one_by_one = sequence_kl(policy, reference, candidates, batch_tokens=1)
    # What stands behind a response's end means nothing; a pool drawn with right padding or more room is the same pool.
    behind = np.arange(STEPS) >= candidates.lengths[..., None]
    assert behind.any()
    garbage = candidates.token_ids.copy()
    garbage[behind] = 5
    wide = np.pad(garbage, ((0, 0), (0, 0), (0, 2)), constant_values=3)
    other_padding = Candidates(**{**vars(candidates), "token_ids": wide})
    right = generate_candidates(policy, build_tokenizer("right"), prompts, 15, max_new_tokens=STEPS, seed=2)
    alone = Candidates(
        **{
            **{k: v[1:2] for k, v in vars(candidates).items() if k not in ("metadata", "scores", "ref_logprobs")},
            "metadata": candidates.metadata,
        }
    )
    for other, rows in [
        (one_by_one, slice(None)),
        (sequence_kl(policy, reference, other_padding), slice(None)),
        (sequence_kl(policy, reference, right), slice(None)),
        (sequence_kl(policy, reference, alone), slice(1, 2)),
    ]:
        for name in ("monte_carlo", "rao_blackwell", "logprobs", "ref_logprobs"):
            np.testing.assert_allclose(getattr(other, name), getattr(whole, name)[rows], atol=2e-5)


def test_sequence_kl_takes_a_value_head_wrapper(policy, reference, tokenizer):
    class Wrapper(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.pretrained_model = model

    candidates = generate_candidates(policy, tokenizer, PROMPTS, 4, max_new_tokens=STEPS)
    wrapped = sequence_kl(Wrapper(policy), Wrapper(reference), candidates)
    np.testing.assert_array_equal(wrapped.rao_blackwell, sequence_kl(policy, reference, candidates).rao_blackwell)


def test_sequence_kl_refuses_another_temperature_than_the_candidates_were_drawn_at(policy, reference, tokenizer):
    candidates = generate_candidates(policy, tokenizer, PROMPTS, 2, max_new_tokens=STEPS, temperature=0.7)
    with pytest.raises(ValueError, match=r"drawn at temperature 0\.7, not 1\.0"):
        sequence_kl(policy, reference, candidates, temperature=1.0)
    assert sequence_kl(policy, reference, candidates, temperature=0.7).monte_carlo.shape == (2, 2)


def test_sequence_kl_takes_the_callers_temperature_where_the_candidates_do_not_say(policy, reference):
    candidates = pool_of(PROMPTS, [[[2, 3, EOS]], [[4, EOS]]])
    said = pool_of(PROMPTS, [[[2, 3, EOS]], [[4, EOS]]], temperature=0.6)
    given_by_caller = sequence_kl(policy, reference, candidates, temperature=0.6)
    np.testing.assert_allclose(given_by_caller.rao_blackwell, sequence_kl(policy, reference, said).rao_blackwell)


@pytest.mark.parametrize(
    "warping",
    [
        {"top_k": 3},
        {"top_p": 0.9},
        {"min_p": 0.1},
        {"typical_p": 0.9},
        {"repetition_penalty": 1.2},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 2},
        {"min_length": 6},
        {"suppress_tokens": [2]},
        {"begin_suppress_tokens": [2]},
        {"bad_words_ids": [[2]]},
        {"sequence_bias": {(2,): 1.0}},
        {"forced_eos_token_id": EOS},
        {"exponential_decay_length_penalty": (1, 1.5)},
    ],
    ids=lambda warping: next(iter(warping)),
)
def test_sequence_kl_refuses_every_warping_but_temperature(policy, reference, tokenizer, warping):
    candidates = generate_candidates(policy, tokenizer, [[4]], 2, max_new_tokens=STEPS, **warping)
    with pytest.raises(ValueError, match=f"drawn with {next(iter(warping))}"):
        sequence_kl(policy, reference, candidates)


@pytest.mark.parametrize(
    "neutral",
    [{"top_k": 0}, {"top_p": 1.0}, {"min_length": 0}, {"min_new_tokens": 0}, {"epsilon_cutoff": 0.0}, {"min_length": -1}],
)
def test_sequence_kl_accepts_options_that_change_nothing(policy, reference, tokenizer, neutral):
    candidates = generate_candidates(policy, tokenizer, [[4]], 2, max_new_tokens=STEPS, **neutral)
    plain = generate_candidates(policy, tokenizer, [[4]], 2, max_new_tokens=STEPS)
    expected = sequence_kl(policy, reference, plain)
    np.testing.assert_array_equal(sequence_kl(policy, reference, candidates).rao_blackwell, expected.rao_blackwell)


def test_sequence_kl_refuses_the_most_likely_response_which_was_not_drawn(policy, reference, tokenizer):
    candidates = generate_candidates(policy, tokenizer, [[4]], 1, max_new_tokens=STEPS, do_sample=False)
    with pytest.raises(ValueError, match="do_sample=False"):
        sequence_kl(policy, reference, candidates)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_sequence_logprobs_are_those_of_the_enumeration(policy, reference, temperature):
    rows = all_responses(policy, reference, PROMPTS[1], temperature)
    candidates = pool_of(PROMPTS[1:], [[row[0] for row in rows]])
    np.testing.assert_allclose(
        sequence_logprobs(reference, candidates, temperature, batch_tokens=50)[0], [row[2] for row in rows], atol=1e-4
    )
