"""vLLM as the first stage, without a GPU: its requests, its configuration, and what becomes of its responses."""

import dataclasses
import itertools
import sys

import numpy as np
import pytest

from suite.config.engine import EngineConfig, StageConfig
from suite.config.run import SamplingConfig
from suite.pools.engines import check_engine
from suite.pools.maker import PoolMaker
from suite.pools.recipe import Recipe, Unit
from suite.runtime.errors import UserError

pytest.importorskip("ray", reason='needs pip install -e ".[scale]"')

from suite.pools.ray_engine import row_of
from suite.pools.vllm_engine import Gathering, Requests, VLLMEngine, engine_options, gathered, requests

CONFIG = EngineConfig(name="vllm", generation=StageConfig(gpus=2), scoring=StageConfig(gpus=1))


class PadIsEos:
    """A tokenizer whose padding token is its end-of-sequence token, as those of most language models are here."""

    def __init__(self, tokenizer):
        self.tokenizer, self.pad_token_id = tokenizer, tokenizer.eos_token_id

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)


@pytest.fixture
def recipe(policy, judges):
    return Recipe(policy, policy, judges, SamplingConfig(max_new_tokens=6, temperature=0.8), 5, "cpu", "vllm")


@pytest.fixture
def unit(prompts):
    return Unit("key", prompts[:3], range(32, 35), range(4, 8))


def test_a_request_a_candidate(unit):
    made = Requests(seed=5, temperature=0.8, max_new_tokens=6, eos_token_id=1)({"unit": row_of(unit)})
    assert [row["tokenized_prompt"] for row in made] == [prompt for prompt in unit.prompts for _ in range(4)]
    options = made[0]["sampling_params"]
    assert {name: options[name] for name in options if name != "seed"} == {
        "n": 1, "temperature": 0.8, "top_k": 0, "top_p": 1.0, "max_tokens": 6, "stop_token_ids": [1], "detokenize": False,
    }  # fmt: skip
    assert {row["unit"] for row in made} == {row_of(unit)}
    assert len({row["sampling_params"]["seed"] for row in made}) == 12


def test_seeds_belong_to_a_candidate_however_the_work_is_cut(unit):
    """And fit in vLLM's 64 bits with sign."""

    def seeds(unit, seed=5):
        rows = Requests(seed, 1.0, 6, 1)({"unit": row_of(unit)})
        at = itertools.product(unit.prompt_ids, unit.candidates)
        return {place: row["sampling_params"]["seed"] for place, row in zip(at, rows, strict=True)}

    whole = seeds(unit)
    part = seeds(Unit("key", unit.prompts[1:2], range(33, 34), range(6, 9)))
    assert {place: whole[place] for place in [(33, 6), (33, 7)]} == {place: part[place] for place in [(33, 6), (33, 7)]}
    assert not set(whole.values()) & set(seeds(unit, seed=6).values())
    assert all(0 <= seed < 2**63 for seed in whole.values())


def test_a_padding_token_of_its_own_is_refused(recipe):
    with pytest.raises(UserError, match=r"^engine=vllm cannot draw from policy=tiny: its padding token.*use engine=ray"):
        requests(recipe)
    tokenizer = PadIsEos(recipe.policy.tokenizer)
    allowed = dataclasses.replace(recipe, policy=dataclasses.replace(recipe.policy, tokenizer=tokenizer))
    assert requests(allowed) == Requests(5, 0.8, 6, tokenizer.eos_token_id)


def test_responses_become_the_pool_that_drew_them(recipe, unit):
    """The oracle: tokens of our own sampler come back with its texts and log-probabilities of both kinds."""
    drawn = recipe.drawn(unit)
    responses = [drawn.token_ids[p, c, : drawn.lengths[p, c]].tolist() for p in range(3) for c in range(4)]
    pool = gathered(recipe, unit, responses, seconds=2.5)
    assert (pool.texts == drawn.texts).all()
    assert pool.prompts == drawn.prompts
    assert (pool.lengths == drawn.lengths).all()
    assert pool.logprobs == pytest.approx(drawn.logprobs, abs=1e-4)
    assert pool.raw_logprobs == pytest.approx(drawn.raw_logprobs, abs=1e-4)
    assert np.abs(pool.logprobs - pool.raw_logprobs).max() > 0.1
    assert pool.metadata == {**drawn.metadata, "seconds": 2.5, "steps": "vllm"}
    scored = recipe.scored(unit, pool)
    assert scored.scores["proxy"] == pytest.approx(recipe.scored(unit, drawn).scores["proxy"], abs=1e-5)
    with pytest.raises(RuntimeError, match="11 responses for a shard of 3 x 4"):
        gathered(recipe, unit, responses[1:], seconds=2.5)


def test_a_batch_is_one_shard(recipe, unit):
    stage = object.__new__(Gathering)
    other = dataclasses.replace(unit, key="other")
    with pytest.raises(RuntimeError, match="a batch of 2 responses holds 2 shards instead of one"):
        stage({"unit": [row_of(unit), row_of(other)], "generated_tokens": [[1], [1]], "time_taken_llm": [1.0, 1.0]})


def test_units_of_one_size_go_together(unit):
    small = dataclasses.replace(unit, prompts=unit.prompts[:1], prompt_ids=range(35, 36))
    waves = list(VLLMEngine(CONFIG).waves([unit, small, unit]))
    assert [[len(one.prompts) for one in wave] for wave in waves] == [[1], [3, 3]]


def test_the_processor_is_one_that_ray_accepts(recipe):
    processor = VLLMEngine(CONFIG).processor(recipe, 12)
    assert processor.list_stage_names() == ["vLLMEngineStage"]
    assert processor.config.batch_size == 12
    assert processor.config.model_source == recipe.policy.folder
    options = processor.get_stage_by_name("vLLMEngineStage").fn_constructor_kwargs["engine_kwargs"]
    expected = engine_options(recipe, 2)
    assert {name: options[name] for name in expected} == expected
    assert expected["tensor_parallel_size"] == 2
    assert expected["dtype"] == "float32"
    assert expected["generation_config"] == "vllm"


def test_its_pools_have_keys_of_their_own(recipe, policy, judges, prompts, tmp_path):
    settings = {"cache": tmp_path, "base": policy, "judges": judges, "sampling": SamplingConfig(), "prompts": prompts[:2]}
    of_vllm = PoolMaker(**settings, engine=VLLMEngine(CONFIG)).missing(policy, 2, seed=0)
    local = PoolMaker(**settings).missing(policy, 2, seed=0)
    assert [unit.key for unit in of_vllm] != [unit.key for unit in local]


def test_without_vllm(configure, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    config = configure("engine=vllm", "baseline=none")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "vllm" else object())
    with pytest.raises(UserError, match=r'^engine=vllm needs vllm, which is not installed; run: pip install -e "\.\[vllm\]"$'):
        check_engine(config.engine)
