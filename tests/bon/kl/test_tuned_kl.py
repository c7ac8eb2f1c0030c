"""KL of a tuned policy against enumeration of all its responses."""

import copy
import warnings
from collections.abc import Mapping

import numpy as np
import pytest
import torch

from bon import Candidates, generate_candidates
from bon.kl import SequenceKL, sequence_kl
from bon.likelihood import sequence_logprobs

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
            **{k: v[1:2] for k, v in vars(candidates).items() if v is not None and not isinstance(v, Mapping)},
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


def test_standard_errors_are_over_prompts():
    # Candidates of a prompt are averaged first: (1, 3) and (2, 8) have means 2 and 5, a spread of 3 / sqrt(2).
    monte_carlo = np.array([[1.0, 3.0], [2.0, 8.0]])
    result = SequenceKL(np.zeros((2, 2)), np.zeros((2, 2)), monte_carlo, np.full((2, 2), 4.0))
    assert result.monte_carlo_error == pytest.approx(1.5)
    assert result.rao_blackwell_error == 0.0
    with pytest.raises(ValueError, match=r"at least 2 prompts, got values of shape \(1, 2\)"):
        _ = SequenceKL(*(np.zeros((1, 2)) for _ in range(4))).monte_carlo_error


def test_stated_errors_are_the_spread_of_the_estimates_and_rao_blackwells_is_smaller(policy, reference, tokenizer):
    # 60 studies of 30 prompts (all the same, so that only the draws differ): the stated errors' root mean square is known
    # to 2%, the spread of 60 estimates to 9%.
    candidates = generate_candidates(policy, tokenizer, [PROMPTS[1]] * 1800, 1, max_new_tokens=STEPS, seed=4)
    whole = sequence_kl(policy, reference, candidates)
    exact = sum(np.exp(ours) * (ours - theirs) for _, ours, theirs in all_responses(policy, reference, PROMPTS[1]))
    stated, spread = {}, {}
    for kind in ("monte_carlo", "rao_blackwell"):
        parts = getattr(whole, kind).reshape(60, 30, 1)
        studies = [SequenceKL(**{**dict.fromkeys(vars(whole), part), kind: part}) for part in parts]
        stated[kind] = np.sqrt(np.mean([getattr(study, f"{kind}_error") ** 2 for study in studies]))
        means = parts.mean((1, 2))
        spread[kind] = means.std(ddof=1)
        assert stated[kind] == pytest.approx(spread[kind], rel=0.3)
        assert means.mean() == pytest.approx(exact, abs=4 * stated[kind] / np.sqrt(60))
    assert stated["rao_blackwell"] < 0.5 * stated["monte_carlo"]


@pytest.fixture
def adapted(build_model, tokenizer):
    """A policy with a random adapter, its base as it was before, the base that PEFT wrapped, and a pool."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of third parties, at import
        peft = pytest.importorskip("peft")
        base, apart = build_model("gpt2"), build_model("gpt2")
        lora = peft.LoraConfig(
            task_type="CAUSAL_LM", target_modules=["c_attn"], init_lora_weights=False, r=4, lora_alpha=32, fan_in_fan_out=True
        )
        with torch.random.fork_rng():
            policy = peft.get_peft_model(base, lora).eval()
    return policy, apart, base, generate_candidates(policy, tokenizer, [[10, 11, 12], [13]], 8, max_new_tokens=6, seed=1)


def test_the_reference_of_an_adapter_is_the_policy_with_it_off(adapted):
    policy, apart, wrapped, pool = adapted
    true = sequence_kl(policy, apart, pool)
    assert true.rao_blackwell.mean() > 0.01
    for reference in (None, wrapped):
        found = sequence_kl(policy, reference, pool)
        np.testing.assert_allclose(found.rao_blackwell, true.rao_blackwell, atol=1e-5)
        np.testing.assert_allclose(found.ref_logprobs, true.ref_logprobs, atol=1e-4)
    np.testing.assert_allclose(sequence_kl(policy, policy, pool).rao_blackwell, 0, atol=1e-6)
    assert not any(getattr(module, "_disable_adapters", False) for module in policy.modules())


def test_a_policy_without_an_adapter_needs_a_reference(gpt2, tokenizer):
    pool = generate_candidates(gpt2, tokenizer, [[10]], 2, max_new_tokens=2)
    with pytest.raises(ValueError, match="has no adapter to switch off: pass its reference"):
        sequence_kl(gpt2, None, pool)


def test_a_merged_adapter_leaves_no_reference(adapted):
    policy, _, _, pool = adapted
    policy.merge_adapter()
    with pytest.raises(ValueError, match="the adapter is merged into the weights"):
        sequence_kl(policy, None, pool)


def test_tokens_that_both_policies_forbid_add_nothing(build_model, tokenizer):
    def forbid(module, inputs, output):
        output.logits[..., 5] = -torch.inf

    policy, reference = build_model("gpt2"), build_model("gpt2", seed=1)
    for model in (policy, reference):
        model.register_forward_hook(forbid)
    pool = generate_candidates(policy, tokenizer, [[10, 11]], 4, max_new_tokens=4)
    found = sequence_kl(policy, reference, pool)
    assert np.isfinite(found.rao_blackwell).all()
    assert (found.rao_blackwell > 0).all()


def test_policies_of_two_vocabularies_are_refused(build_model, tokenizer):
    policy = build_model("gpt2")
    pool = generate_candidates(policy, tokenizer, [[10]], 2, max_new_tokens=2)
    with pytest.raises(ValueError, match="policies of 80 and 96 tokens have no KL"):
        sequence_kl(policy, build_model("gpt2", vocabulary=96), pool)
