"""The benchmark at a tiny size: every row for every n, rivals that really draw, the command and what it writes. No times."""

import csv
import dataclasses
import math
import re
import subprocess
import sys
from contextlib import ExitStack

import pytest
import torch
from omegaconf import OmegaConf

from suite.benchmark import contenders, trl_0_24
from suite.benchmark import measure as benchmarks
from suite.benchmark.contenders import ContinuousBatching, Drawing, Generate, Ours
from suite.benchmark.gemm_limit import MatrixProducts, check_units, gemm_limit
from suite.benchmark.turns import UnavailableError
from suite.config.benchmark import BenchmarkConfig
from suite.config.run import SamplingConfig
from suite.runtime.errors import UserError
from suite.runtime.paths import REPOSITORY

CPU = torch.device("cpu")
ROWS = [
    "bon, fp32",
    "bon compiled, fp32",
    "transformers generate, fp32",
    "bon, bf16",
    "bon compiled, bf16",
    "transformers generate, bf16",
    "transformers continuous batching, fp32",
    "TRL 0.24 BestOfNSampler, fp32",
    "limit: matrix products, fp32",
    "limit: matrix products, bf16",
]


@pytest.fixture
def tiny_benchmark(models, tmp_path, compose_config):
    """tiny_benchmark(*overrides) -> BenchmarkConfig on the tiny models, and the overrides themselves."""
    always = [f"policy.path={models}/policy", f"reward.proxy.path={models}/proxy", f"reward.gold.path={models}/gold"]
    always += [f"output={tmp_path}/out", f"cache={tmp_path}/cache"]

    def composed(*overrides):
        return OmegaConf.to_object(compose_config(*always, *overrides, config_name="benchmark"))

    composed.always = always
    return composed


@pytest.fixture
def drawing(policy, prompts):
    return Drawing(policy, prompts[:5], SamplingConfig(max_new_tokens=3))


@pytest.fixture
def one_number_format(monkeypatch):
    """A machine without bf16 units, whatever this one has."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False, "amx_bf16": False})


@pytest.fixture
def no_network(monkeypatch):
    def failed(folder):
        raise UnavailableError("pip failed: no network")

    monkeypatch.setattr(benchmarks, "environment", failed)


def test_every_row_for_every_n(tiny_benchmark, fewer_reviews, one_number_format, no_network):
    config = tiny_benchmark(
        "parts=[sampler]", "ns=[1,2]", "num_prompts=3", "rounds=1", "sampling.max_new_tokens=3", "batch_sizes=[1,2]"
    )
    speeds = benchmarks.measure(config)
    assert [(speed.n, speed.contender) for speed in speeds] == [(n, name) for n in (1, 2) for name in ROWS]
    absent = {speed.contender: speed.note for speed in speeds if math.isnan(speed.median)}
    assert absent == {
        "bon, bf16": "no bf16 units",
        "bon compiled, bf16": "no bf16 units",
        "transformers generate, bf16": "no bf16 units",
        "TRL 0.24 BestOfNSampler, fp32": "pip failed: no network",
        "limit: matrix products, bf16": "no bf16 units",
    }
    ran = {(speed.n, speed.contender): speed for speed in speeds if speed.contender not in absent}
    for n in (1, 2):
        assert ran[n, "bon, fp32"].ratio == 1.0
        assert ran[n, "bon compiled, fp32"].note == "steps: plain"  # too short a response to compile for
        assert ran[n, "limit: matrix products, fp32"].share == 1.0
        assert re.fullmatch(r"[12] prompts a call", ran[n, "transformers generate, fp32"].note)
        assert re.fullmatch(r"\S+ GFLOP/s", ran[n, "limit: matrix products, fp32"].note)
    assert all(speed.median > 0 and speed.share > 0 for speed in ran.values())


def test_only_the_rivals_that_are_asked_for(tiny_benchmark, drawing):
    with ExitStack() as stack:
        names = [one.name for one in benchmarks.contenders(tiny_benchmark("rivals=[generate]"), drawing, stack)]
    assert names == ["bon, fp32", "transformers generate, fp32", "limit: matrix products, fp32"]


def test_rivals_that_break_leave_their_rows(tiny_benchmark, drawing, monkeypatch, no_network):
    def broken(*_, **__):
        raise RuntimeError("broken\nin two lines")

    monkeypatch.setattr(Generate, "speed_at", broken)
    monkeypatch.setattr(benchmarks, "ContinuousBatching", broken)
    config = tiny_benchmark("ns=[2]", "rounds=1", "rivals=[generate,continuous_batching,trl]")
    told = {speed.contender: speed.note for speed in benchmarks.sampler_speeds(config, drawing)}
    assert told["transformers generate, fp32"] == "RuntimeError: broken"
    assert told["transformers continuous batching, fp32"] == "RuntimeError: broken"
    assert told["bon, fp32"] == ""


class Scripted:
    """A rival whose settings have known speeds."""

    def __init__(self, speeds):
        self.speeds, self.tried = speeds, []

    def of(self, n, setting):
        self.tried.append((n, setting))
        return self.speeds[setting]


def test_a_rival_runs_at_its_best(drawing, monkeypatch):
    rival = Generate(drawing, torch.float32, [1, 2, 4, 64])
    scripted = Scripted({1: 5.0, 2: 9.0, 4: 7.0, 5: 8.0})
    monkeypatch.setattr(rival, "speed_at", scripted.of)
    assert [rival.speed(8), rival.speed(8), rival.speed(1)] == [9.0, 9.0, 9.0]
    # 64 prompts a call are the 5 there are.
    search = [1, 2, 4, 5]
    assert scripted.tried == [(8, size) for size in search] + [(8, 2)] + [(1, size) for size in search]
    assert rival.note(8) == "2 prompts a call"


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_generate_draws_for_every_prompt(drawing, monkeypatch, batch_size):
    rival = Generate(drawing, torch.float32, [batch_size])
    seen, real = [], rival.model.generate

    def watched(**kwargs):
        seen.append(
            (kwargs["input_ids"].shape[0], kwargs["num_return_sequences"], bool(kwargs["attention_mask"][:, -1].all()))
        )
        return real(**kwargs)

    monkeypatch.setattr(rival.model, "generate", watched)
    tokens = rival._draw(3, batch_size)
    assert sum(rows for rows, _, _ in seen) == 5
    assert max(rows for rows, _, _ in seen) == batch_size
    assert all(n == 3 and padded_left for _, n, padded_left in seen)
    assert 5 * 3 <= tokens <= 5 * 3 * 3


def test_continuous_batching_draws_and_leaves_the_policy_alone(drawing):
    rival = ContinuousBatching(drawing, batch_tokens=(32,))
    try:
        assert 5 * 2 <= rival._draw(2, 32) <= 5 * 2 * 3
        assert rival.speed(2) > 0
        assert rival.note(2) == "32 tokens a batch"
        rival.most_requests = 6
        assert rival.note(2) == "32 tokens a batch, first 3 prompts"
    finally:
        rival.close()
    assert drawing.policy.model.config._attn_implementation == "sdpa"


def test_responses_that_do_not_come_back_are_no_speed(drawing, monkeypatch):
    rival = ContinuousBatching(drawing, batch_tokens=(32,))
    monkeypatch.setattr(rival.model, "generate_batch", lambda *_, **__: {})
    with pytest.raises(UnavailableError, match=r"^0 of 10 responses came back: it stopped$"):
        rival._draw(2, 32)


def test_ours_counts_what_it_drew(drawing, monkeypatch):
    monkeypatch.setattr(contenders, "per_second", lambda draw: draw())
    lengths = contenders.generate_candidates(
        drawing.policy.model, drawing.policy.tokenizer, drawing.prompts, 4, **drawing.options()
    ).lengths
    assert Ours(drawing, torch.float32).speed(4) == lengths.sum()


def test_bf16_needs_units(monkeypatch, drawing, one_number_format):
    check_units(torch.float32, CPU)
    for make in (lambda: Ours(drawing, torch.bfloat16), lambda: MatrixProducts(1, torch.bfloat16, CPU)):
        with pytest.raises(UnavailableError, match=r"^no bf16 units$"):
            make()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "amx_bf16": True})
    check_units(torch.bfloat16, CPU)
    assert Ours(drawing, torch.bfloat16).model.dtype == torch.bfloat16
    assert drawing.policy.model.dtype == torch.float32


def test_the_limit_in_tokens(monkeypatch):
    monkeypatch.setattr("suite.benchmark.gemm_limit.gemm_limit", lambda dtype, device: 3e9)
    limit = MatrixProducts(parameters=1_000_000, dtype=torch.float32, device=CPU)
    assert limit.speed(8) == 1500.0
    assert limit.note(8) == "3 GFLOP/s"


def test_matrix_products_have_a_speed():
    assert 0 < gemm_limit(torch.float32, CPU, repeats=1) < math.inf


BAD = [
    (["parts=[]"], "parts=[]", "one or more of sampler, ppo"),
    (["parts=[gpu]"], "parts=['gpu']", "sampler, ppo"),
    (["rivals=[vllm]"], "rivals=['vllm']", "some of generate"),
    (["num_prompts=0"], "num_prompts=0", "at least 1"),
    (["ns=[]"], "ns=[]", "one or more"),
    (["ns=[0,8]"], "ns=[0, 8]", "at least 1"),
    (["ns=[8,8]"], "ns=[8, 8]", "different"),
    (["rounds=0"], "rounds=0", "at least 1"),
    (["batch_sizes=[0]"], "batch_sizes=[0]", "at least 1"),
    (["updates=1"], "updates=1", "at least 2"),
    (["baseline=none"], "parts=['sampler', 'ppo']", "[sampler] without baseline=ppo"),
    (["sampling.temperature=0"], "sampling.temperature=0", "greater than 0"),
    (["baseline.batch_size=1"], "baseline.batch_size=1", "at least 2"),
    (["output=/dev/null/out"], "output=/dev/null/out", "cannot be written"),
]


@pytest.mark.parametrize(("overrides", "named", "allowed"), BAD, ids=[",".join(bad[0]) for bad in BAD])
def test_bad_values(tiny_benchmark, monkeypatch, overrides, named, allowed):
    monkeypatch.setattr(benchmarks, "load_policy", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(UserError) as caught:
        benchmarks.measure(tiny_benchmark(*overrides))
    assert named in str(caught.value)
    assert allowed in str(caught.value)
    assert "\n" not in str(caught.value)


def test_more_prompts_than_there_are(tiny_benchmark, fewer_reviews):
    with pytest.raises(UserError, match=r"^num_prompts=100000 is not allowed: the evaluation split has \d+$"):
        benchmarks.measure(tiny_benchmark("parts=[sampler]", "num_prompts=100000"))


def test_defaults_of_the_file_and_the_schema_agree(compose_config):
    composed = OmegaConf.to_object(compose_config(config_name="benchmark"))
    groups = ("task", "policy", "reward", "sampling", "baseline")
    assert all(
        getattr(composed, field.name) == getattr(BenchmarkConfig(), field.name)
        for field in dataclasses.fields(BenchmarkConfig)
        if field.name not in groups
    )
    composed.check()


def test_the_command_writes_what_it_prints(tiny_benchmark, tmp_path):
    small = ["parts=[sampler]", "rivals=[generate]", "ns=[2]", "num_prompts=2", "rounds=1", "sampling.max_new_tokens=2"]
    command = [sys.executable, str(REPOSITORY / "experiments" / "benchmark.py"), *tiny_benchmark.always, *small]
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (tmp_path / "out" / "speed.md").read_text()
    with (tmp_path / "out" / "speed.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["contender"] for row in rows] == ["bon, fp32", "transformers generate, fp32", "limit: matrix products, fp32"]
    assert all(row["contender"] in done.stdout for row in rows)
    assert (tmp_path / "out" / "manifest.json").is_file()


def test_the_old_sampler_is_called_what_its_row_is():
    assert trl_0_24.OldTRL.name in ROWS
