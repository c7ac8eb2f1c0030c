"""`BestOfNSampler`: TRL's call, every form of its arguments, and nothing thrown away."""

import ast
import inspect
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from pool_checks import last_number
from transformers import GenerationConfig

import bon
from bon import BestOfNSampler, LengthSampler, RewardError, generate_candidates
from bon.sampler import query_token_ids

QUERIES = [[10, 11, 12], [13], [14, 15]]


@pytest.fixture
def build_sampler(gpt2, tokenizer):
    def build(model=gpt2, reward=last_number, length_sampler=lambda: 5, **options):
        return BestOfNSampler(model, tokenizer, reward, length_sampler, **{"seed": 0, **options})

    return build


def test_signatures_are_trls():
    init = dict(inspect.signature(BestOfNSampler.__init__).parameters)
    own = ("compile", "on_missing", "unfinished", "penalty")
    assert {init.pop(name).kind for name in own} == {inspect.Parameter.KEYWORD_ONLY}
    assert list(init) == [
        "self", "model", "tokenizer", "queries_to_scores", "length_sampler", "sample_size", "seed", "n_candidates",
        "generation_config",
    ]  # fmt: skip
    assert [init[name].default for name in ("sample_size", "seed", "n_candidates", "generation_config")] == [4, None, 1, None]
    generate = inspect.signature(BestOfNSampler.generate).parameters
    assert list(generate) == ["self", "tokenized_query", "skip_special_tokens", "device", "generation_kwargs"]
    assert (generate["skip_special_tokens"].default, generate["device"].default) == (True, None)
    assert generate["generation_kwargs"].kind is inspect.Parameter.VAR_KEYWORD
    assert list(inspect.signature(LengthSampler.__init__).parameters)[:3] == ["self", "min_value", "max_value"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ([10, 11], [[10, 11]]),
        ((10, 11), [[10, 11]]),
        (np.array([10, 11]), [[10, 11]]),
        (torch.tensor([10, 11]), [[10, 11]]),
        ([torch.tensor(10), torch.tensor(11)], [[10, 11]]),
        (torch.tensor([[10, 11], [12, 13]]), [[10, 11], [12, 13]]),
        (np.array([[10, 11], [12, 13]]), [[10, 11], [12, 13]]),
        ([[10, 11], [12]], [[10, 11], [12]]),
        ([torch.tensor([10, 11]), torch.tensor([12])], [[10, 11], [12]]),
        ([torch.tensor([10, 11])], [[10, 11]]),
        ([np.array([10, 11]), np.array([12])], [[10, 11], [12]]),
        ([torch.tensor([[10, 11]]), torch.tensor([[12]])], [[10, 11], [12]]),
        (torch.tensor([[0, 0, 10, 11], [12, 13, 14, 15]]), [[10, 11], [12, 13, 14, 15]]),
        ([[10, 11, 0], [0, 12, 0]], [[10, 11], [12]]),
    ],
    ids=[
        "list",
        "tuple",
        "array",
        "tensor",
        "list of scalars",
        "2-D tensor",
        "2-D array",
        "lists",
        "tensors",
        "one tensor",
        "arrays",
        "batches of one",
        "padded tensor",
        "padded lists",
    ],
)
def test_every_form_of_query_gives_the_same_responses(build_sampler, query, expected):
    assert query_token_ids(query, padding=0) == expected
    assert build_sampler().generate(query) == build_sampler().generate(expected)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ([], "tokenized_query is empty"),
        (torch.tensor([], dtype=torch.long), "tokenized_query is empty"),
        ([[]], "query 0 is empty"),
        ([[10], []], "query 1 is empty"),
        ([torch.tensor([10]), torch.tensor([], dtype=torch.long)], "query 1 is empty"),
        (torch.zeros(1, 2, 3, dtype=torch.long), r"1 or 2 dimensions, got shape \(1, 2, 3\)"),
        ("w10 w11", "must hold token ids .* got str"),
        (None, "got NoneType"),
        (7, "got int"),
        ([0.5, 1.5], "(?i)token ids"),
        (torch.tensor([0.5, 1.5]), "(?i)token ids"),
        ([torch.tensor([[10, 11], [12, 13]])], "query 0 must be a list of integer token ids, got int64 of shape .2, 2."),
        ([[10, 11], [0, 0]], "query 1 is empty"),
    ],
    ids=["empty", "empty tensor", "empty row", "second empty", "empty in tensors", "3-D", "text", "None", "int", "floats",
         "float tensor", "2-D in list", "padding alone"],
)  # fmt: skip
def test_a_query_of_another_form_is_refused(build_sampler, query, message):
    with pytest.raises(ValueError, match=message):
        build_sampler().generate(query)


@pytest.mark.parametrize("dtype", [torch.long, torch.bool])
def test_where_padding_also_ends_texts_a_mask_tells_it(build_model, build_tokenizer, dtype):
    model, tokenizer = build_model("gpt2", pad_token_id=None), build_tokenizer(pad=False)
    tokenizer.pad_token = tokenizer.eos_token
    build = lambda: BestOfNSampler(model, tokenizer, last_number, lambda: 5, seed=0)  # noqa: E731
    padded, mask = torch.tensor([[1, 1, 10, 11], [12, 13, 14, 15]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]], dtype=dtype)
    plain = [[10, 11], [12, 13, 14, 15]]
    assert build().generate(padded, attention_mask=mask) == build().generate(plain)
    assert build().sample(padded, attention_mask=mask).prompt_token_ids == plain
    with pytest.raises(ValueError, match="row 0 begins with token 1, which both pads and delimits texts: pass attention_mask"):
        build().sample(padded)
    assert build().sample(padded.tolist()).prompt_token_ids == padded.tolist()  # lists need no padding: ends of earlier texts
    with pytest.raises(ValueError, match="attention_mask must have a number for every token"):
        build().generate(padded, attention_mask=mask[:, 1:])


@pytest.mark.parametrize("name", ["seed", "prompt_ids", "response_lengths", "first_candidate", "generation_config", "compile"])
def test_what_the_sampler_says_itself_is_no_option_of_a_call(build_sampler, name):
    for call in (build_sampler().generate, build_sampler().sample):
        with pytest.raises(TypeError, match=f"not options of a call but of the sampler, or none at all: {name}"):
            call(QUERIES, **{name: 3})


@pytest.mark.parametrize("sample_size", [1, 4])
def test_generate_returns_the_best_of_what_sample_draws(build_sampler, sample_size):
    pool = build_sampler(sample_size=sample_size).sample(QUERIES)
    best = build_sampler(sample_size=sample_size).generate(QUERIES)
    assert pool.scores["proxy"].shape == pool.logprobs.shape == pool.lengths.shape == (3, sample_size)
    assert pool.scores["proxy"].tolist() == [last_number(row) for row in pool.full_texts]
    assert [len(row) for row in best] == [1, 1, 1]
    for row, texts in zip(best, pool.full_texts, strict=True):
        assert row[0] in texts
        assert last_number(row)[0] == max(last_number(texts))


def test_n_candidates_are_returned_best_first(build_sampler):
    best = build_sampler(sample_size=6, n_candidates=3).generate(QUERIES)
    pool = build_sampler(sample_size=6).sample(QUERIES)
    for row, texts in zip(best, pool.full_texts, strict=True):
        assert last_number(row) == sorted(last_number(texts), reverse=True)[:3]


def test_texts_hold_the_query_and_the_response(build_sampler, tokenizer):
    for row, query in zip(build_sampler().generate(QUERIES), QUERIES, strict=True):
        assert row[0].startswith(tokenizer.decode(query) + " ")


def test_the_reward_gets_every_candidate_as_query_and_response_in_one_text(build_sampler):
    seen = []

    def reward(texts):
        assert isinstance(texts, list)
        seen.extend(texts)
        return [0.0] * len(texts)

    pool = build_sampler(reward=reward, sample_size=3).sample(QUERIES)
    assert seen == [text for row in pool.full_texts for text in row]


def test_special_tokens_are_kept_on_request(build_sampler):
    # The random model would say <pad> and <unk> as readily as any word.
    options = {"sample_size": 40, "n_candidates": 40, "length_sampler": lambda: 10}
    flat = {"temperature": 2.0, "suppress_tokens": [0, 2]}
    plain = build_sampler(**options).generate([10, 11], **flat)[0]
    special = build_sampler(**options).generate([10, 11], skip_special_tokens=False, **flat)[0]
    assert any(text.endswith("<eos>") for text in special)
    assert not any("<pad>" in text for text in special)
    assert [text.removesuffix(" <eos>") for text in special] == plain


def test_two_samplers_of_one_seed_agree_call_by_call_and_calls_differ(build_sampler):
    one, two, other = build_sampler(seed=5), build_sampler(seed=5), build_sampler(seed=6)
    first, second = one.sample(QUERIES), one.sample(QUERIES)
    np.testing.assert_array_equal(two.sample(QUERIES).token_ids, first.token_ids)
    np.testing.assert_array_equal(two.sample(QUERIES).token_ids, second.token_ids)
    assert (first.token_ids != second.token_ids).any()
    assert (other.sample(QUERIES).token_ids != first.token_ids).any()
    assert (build_sampler(seed=None).sample(QUERIES).texts != build_sampler(seed=None).sample(QUERIES).texts).any()


def test_seed_zero_is_a_seed(build_sampler):
    np.testing.assert_array_equal(
        build_sampler(seed=0).sample(QUERIES).token_ids, build_sampler(seed=0).sample(QUERIES).token_ids
    )


def test_the_length_sampler_is_called_once_a_query_and_honoured(build_sampler):
    lengths = iter([2, 7, 4])
    pool = build_sampler(length_sampler=lambda: next(lengths), sample_size=8).sample(QUERIES)
    assert pool.lengths.max(1).tolist() == [2, 7, 4]
    assert next(lengths, None) is None


def test_lengths_follow_from_the_samplers_seed_unless_they_have_one(build_sampler):
    def lengths(seed, of=None):
        sampler = build_sampler(seed=seed, length_sampler=LengthSampler(1, 40, seed=of))
        return [sampler.sample(QUERIES * 4).metadata["response_lengths"] for _ in range(2)]

    assert lengths(0) == lengths(0)
    assert lengths(0) != lengths(1)
    assert lengths(0)[0] != lengths(0)[1]
    assert lengths(0, of=5) == lengths(1, of=5) == [[length() for _ in range(12)] for length in [LengthSampler(1, 40, 5)] * 2]
    shared = LengthSampler(1, 40)  # two samplers that share it do not take each other's
    one, two = build_sampler(length_sampler=shared), build_sampler(length_sampler=shared)
    assert one.sample(QUERIES).metadata["response_lengths"] == two.sample(QUERIES).metadata["response_lengths"]


def test_options_of_the_constructor_and_of_the_call_reach_the_sampling(build_sampler):
    config = GenerationConfig(min_length=-1, top_k=0.0, top_p=1.0, do_sample=True, pad_token_id=0, temperature=0.5)
    sampler = build_sampler(generation_config=config)
    assert sampler.sample(QUERIES).metadata["sampling"]["temperature"] == 0.5
    assert sampler.sample(QUERIES, temperature=0.25).metadata["sampling"]["temperature"] == 0.25
    assert sampler.sample(QUERIES).metadata["sampling"]["temperature"] == 0.5
    trl_kwargs = {"min_length": -1, "top_k": 0.0, "top_p": 1.0, "do_sample": True, "pad_token_id": 0}
    assert build_sampler().generate(QUERIES, device="cpu", **trl_kwargs) == build_sampler().generate(QUERIES)


def test_device_moves_the_model(build_sampler, build_model):
    model = build_model("gpt2")
    moved = []
    model.to = lambda device: moved.append(device)
    sampler = build_sampler(model=model)
    sampler.generate([10, 11])
    assert moved == []
    sampler.generate([10, 11], device="cpu")
    assert moved == ["cpu"]
    model.hf_device_map = {"": "cpu"}  # accelerate has dispatched it, and moves what it must itself
    sampler.generate([10, 11], device="cpu")
    assert moved == ["cpu"]


def test_trls_own_value_head_wrapper_samples_as_the_model_inside(build_sampler, gpt2, monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of third parties, at import
        ppo = pytest.importorskip("trl.experimental.ppo")
        wrapped = ppo.AutoModelForCausalLMWithValueHead(gpt2)
    assert wrapped.pretrained_model is gpt2
    assert build_sampler(model=wrapped).generate(QUERIES) == build_sampler().generate(QUERIES)


def test_importing_the_core_imports_nothing_of_the_suite():
    heavy = {"trl", "hydra", "wandb", "datasets", "matplotlib", "pyarrow", "scipy"}
    code = f"import sys, bon; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_core_needs_nothing_but_torch_transformers_numpy_and_a_bar():
    needed = set()
    for path in Path(bon.__file__).parent.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:  # what is imported inside a function is asked for when it is needed
            if isinstance(node, ast.Import):
                needed |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                needed.add(node.module.split(".")[0])
    assert needed - set(sys.stdlib_module_names) == {"bon", "torch", "transformers", "numpy", "tqdm"}


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (
            lambda texts: [0.0] * (len(texts) - 1) + [float("nan")],
            r"the reward of text 11 is nan, not finite \(.*leaves it out\): 'w14 w15 ",
        ),
        (lambda texts: [0.0] * (len(texts) - 1), "11 scores for 12 texts"),
        (lambda texts: ["good"] * len(texts), "the reward of text 0 is 'good', not a number: 'w10 w11 w12 "),
        (lambda texts: texts[len(texts)], "the reward raised IndexError"),
    ],
    ids=["nan", "count", "text", "raises"],
)
def test_candidates_stay_reachable_when_the_reward_fails(build_sampler, reward, message):
    with pytest.raises(RewardError, match=message) as caught:
        build_sampler(reward=reward).generate(QUERIES)
    np.testing.assert_array_equal(caught.value.candidates.texts, build_sampler().sample(QUERIES).texts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_size": 0}, "sample_size must be at least 1, got 0"),
        ({"sample_size": 2, "n_candidates": 3}, r"n_candidates must lie in 1\.\.2 \(the sample_size\), got 3"),
        ({"n_candidates": 0}, r"n_candidates must lie in 1\.\.4"),
    ],
)
def test_counts_that_cannot_be_met_are_refused_at_construction(build_sampler, options, message):
    with pytest.raises(ValueError, match=message):
        build_sampler(**options)


@pytest.mark.parametrize(("name", "value"), [("max_new_tokens", 3), ("max_length", 9)])
def test_another_length_beside_the_length_sampler_is_refused(build_sampler, name, value):
    message = rf"{name}={value} cannot be honoured: length_sampler says .* length_sampler=lambda: {value}"
    for call in (build_sampler().generate, build_sampler().sample):
        with pytest.raises(ValueError, match=f"^{message}"):
            call(QUERIES, **{name: value})
    with pytest.raises(ValueError, match=rf"^generation_config\.{message}"):
        build_sampler(generation_config=GenerationConfig(**{name: value}))


def test_a_query_longer_than_the_context_is_refused(build_sampler):
    with pytest.raises(ValueError, match="1 has 62 tokens, which leaves no room for 5 more"):
        build_sampler().generate([[10], [10] * 62])


def test_sampling_is_greedy_only_for_a_single_sample(build_sampler, gpt2, tokenizer):
    greedy = generate_candidates(gpt2, tokenizer, QUERIES, 1, do_sample=False, max_new_tokens=5)
    assert build_sampler(sample_size=1).generate(QUERIES, do_sample=False) == greedy.full_texts
    with pytest.raises(ValueError, match="do_sample=False draws the same text 4 times"):
        build_sampler().generate(QUERIES, do_sample=False)


def test_length_sampler_draws_all_lengths_but_the_upper_end_evenly():
    sampler = LengthSampler(2, 5, seed=0)
    draws = [sampler() for _ in range(3000)]
    assert all(type(draw) is int for draw in draws)
    counts = np.bincount(draws, minlength=6)
    assert counts[[0, 1, 5]].sum() == 0
    # Standard deviation of each count: sqrt(3000 * 1/3 * 2/3) = 26.
    assert (np.abs(counts[2:5] - 1000) < 110).all()


def test_length_sampler_has_a_generator_of_its_own():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one, two = LengthSampler(1, 1000, seed=4), LengthSampler(1, 1000, seed=4)
    assert [one() for _ in range(5)] == [two() for _ in range(5)]
    LengthSampler(1, 1000)()
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize("ends", [(3, 3), (5, 2), (0, 4)])
def test_length_sampler_refuses_an_empty_range(ends):
    with pytest.raises(ValueError, match="1 <= min_value < max_value"):
        LengthSampler(*ends)
