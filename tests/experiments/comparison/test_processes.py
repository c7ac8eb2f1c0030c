"""Two real processes on CPUs draw what one draws, train as one, resume to the same bits, and do not wait for ever."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from same_pools import assert_same
from training_checks import numbers, same_weights
from two_processes import Record, small_task

from bon import Candidates
from suite.baselines.checkpoints import described, read_log
from suite.baselines.interface import train
from suite.comparison import processes
from suite.comparison.setup import prepare, training_task
from suite.pools import maker as pools
from suite.pools import recipe
from suite.pools.maker import PoolMaker
from suite.runtime import command as commands
from suite.runtime import distributed
from suite.runtime.errors import UserError
from suite.runtime.paths import REPOSITORY, located

WORKER = Path(__file__).parents[1] / "two_processes.py"
TIMEOUT = 600


def started(*command, **environment):
    """A process in a session of its own, with one thread."""
    env = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        [sys.executable, *map(str, command)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=env, start_new_session=True,
    )  # fmt: skip


def ended(process):
    """(exit code, stdout, stderr) of a process that ends by itself; of one that does not, nothing is left."""
    try:
        out, err = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out, err


def torchrun(*command, **environment):
    """Two processes by torchrun."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2)
    return ended(started(*launcher, *command, **environment))


@pytest.fixture(scope="module")
def cut(models, tmp_path_factory):
    """A folder with a training whose second process was killed in update 4; and how the two ended."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Without torchrun, which would end the first: it has to find out by itself, as on another machine.
    pair = [
        started(
            WORKER, "cut", models, folder, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", RANK=str(rank),
            LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2",
        )
        for rank in range(2)
    ]  # fmt: skip
    return folder, [ended(process) for process in reversed(pair)]


@pytest.fixture(scope="module")
def trained(cut, models):
    """A folder with a whole training in two processes, the one that was cut gone on with, and twins."""
    folder, _ = cut
    code, _, err = torchrun(WORKER, "both", models, folder)
    assert code == 0, err
    return folder


def told(folder, name):
    """What each process recorded of a training."""
    return [np.load(folder / f"{name}-{rank}.npz") for rank in range(2)]


def weights(folder, update):
    return load_file(folder / f"checkpoint-{update:06d}" / "model.safetensors")


def test_a_process_that_dies_ends_the_other(cut):
    folder, (second, first) = cut
    assert second[0] == -signal.SIGKILL
    assert first[0] == 1
    assert "RuntimeError" in first[2]
    assert sorted(path.name for path in (folder / "cut").glob("checkpoint-*"))[:2] == [
        "checkpoint-000001",
        "checkpoint-000002",
    ]


def test_resumed_after_the_death_equals_uninterrupted(trained):
    for update in (1, 2, 4):
        assert same_weights(weights(trained / "cut", update), weights(trained / "whole", update))
    last = "checkpoint-000004"
    assert numbers(read_log(trained / "cut" / last)) == numbers(read_log(trained / "whole" / last))
    critics = [load_file(trained / name / last / "critic.safetensors") for name in ("cut", "whole")]
    assert same_weights(*critics)
    assert [one["responses"].shape[0] for one in told(trained, "cut")] == [2, 2]  # updates 3 and 4 alone


def test_both_processes_have_the_same_weights(trained):
    first, second = told(trained, "whole")
    assert first["weights"].tolist() == second["weights"].tolist()
    assert len(set(first["weights"].tolist())) == 4  # every update changes them


def test_the_first_update_is_that_of_one_process(trained, models, tmp_path):
    task = small_task(models, tmp_path)
    with Record() as record:
        train(small_task(models, tmp_path, updates=task.config.updates))
    shares = np.concatenate([one["responses"][0] for one in told(trained, "whole")])
    assert shares.tolist() == record.responses[0].tolist()
    alone, shared = (read_log(folder)[0] for folder in (tmp_path / "checkpoint-000001", trained / "whole/checkpoint-000001"))
    assert abs(shared["objective/kl"]) < 1e-4
    assert abs(shared["objective/kl_rao_blackwell"]) < 1e-4
    exact = ("tokens", "episode", "lr", "val/num_eos_tokens", "response/length", "response/eos_rate", "response/distinct_2")
    assert {key: shared[key] for key in exact} == {key: alone[key] for key in exact}
    close = [key for key in alone if key.startswith(("objective/", "reward/quantile"))]
    assert {key: shared[key] for key in close} == pytest.approx({key: alone[key] for key in close}, abs=1e-4)
    assert sum(shared["reward/histogram"]["counts"]) == task.config.batch_size
    assert shared.keys() == alone.keys()


def test_processes_with_the_same_rows_train_as_one_with_them(trained, models, tmp_path):
    # (g + g) / 2 = g: averaging, clipping and the schedule change nothing, to the last bit.
    alone = train(small_task(models, tmp_path, updates=2, batch_size=4))
    for update, folder in alone.checkpoints.items():
        assert same_weights(load_file(folder / "model.safetensors"), weights(trained / "twins", update))


def test_a_checkpoint_belongs_to_a_number_of_processes(trained, models):
    with pytest.raises(UserError, match="processes=2 there, processes=None here"):
        train(small_task(models, trained / "whole"))


def test_one_process_is_no_part_of_what_determines_a_result(models, tmp_path, monkeypatch, configure, fewer_reviews):
    assert "processes" not in described(small_task(models, tmp_path))
    comparison = prepare(configure("experiment=smoke"))
    alone = training_task(comparison, tmp_path).folder
    monkeypatch.setattr(distributed, "size", lambda: 2)
    assert described(small_task(models, tmp_path))["processes"] == 2
    assert training_task(comparison, tmp_path).folder != alone


def test_waiting_ends(models, tmp_path):
    code, _, err = torchrun(WORKER, "late", models, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exchanged-0", "exchanged-1"]
    assert code == 1
    assert "Timed out waiting 5000ms" in err


@pytest.fixture
def small_run(tiny_overrides):
    """Overrides of a run whose prompts are two blocks."""
    return [*tiny_overrides, "experiment=smoke", "num_prompts=40", "num_candidates=4", "n=2", "baseline.updates=1",
            "baseline.num_candidates=2", "resamples=100", "name=two"]  # fmt: skip


def test_a_comparison_in_two_processes(small_run, configure, tmp_path, monkeypatch):
    code, out, err = torchrun(REPOSITORY / "experiments" / "run.py", *small_run, ACCELERATE_USE_CPU="true")
    assert (code, err) == (0, "")
    assert out.count("Gold reward of best-of-2 minus PPO") == 1
    folder = tmp_path / "results" / "two"
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["two"]
    assert json.loads((folder / "manifest.json").read_text())["processes"] == 2
    (task,) = (tmp_path / "cache" / "ppo").glob("*/checkpoint-000001/task.json")
    assert json.loads(task.read_text())["processes"] == 2
    assert not list((tmp_path / "cache").glob(".shared-*"))

    comparison = prepare(configure(*small_run))
    settings = (comparison.policy, comparison.judges, comparison.config.sampling, comparison.evaluation_prompts)
    alone = PoolMaker(tmp_path / "alone", *settings).pool(comparison.policy, 4, seed=0)
    assert_same(Candidates.load(folder / "candidates.parquet"), alone)
    shards = {path.relative_to(tmp_path / "alone") for path in (tmp_path / "alone").rglob("*.parquet")}
    assert len(shards) == 2
    assert shards < {path.relative_to(tmp_path / "cache") for path in (tmp_path / "cache").rglob("*.parquet")}
    monkeypatch.setattr(recipe, "generate_candidates", lambda *_, **__: pytest.fail("drawn again"))
    PoolMaker(located(comparison.config.cache), *settings).pool(comparison.policy, 4, seed=0)


@pytest.mark.parametrize("rank", [0, 1])
def test_each_process_draws_its_own_blocks(rank, policy, judges, prompts, tmp_path, monkeypatch, configure):
    maker = PoolMaker(tmp_path, policy, judges, configure("sampling.max_new_tokens=3").sampling, prompts[:7])
    monkeypatch.setattr(pools, "PROMPT_BLOCK", 2)
    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    drawn = []
    monkeypatch.setattr(distributed, "barrier", lambda: drawn.append(sorted(_first_prompts(tmp_path))))
    pool = maker.pool(policy, 2, seed=0)
    own = [prompts[p] for p in ((0, 4) if rank == 0 else (2, 6))]
    assert drawn == [sorted(list(ids) for ids in own)]
    assert [list(ids) for ids in pool.prompt_token_ids] == [list(ids) for ids in prompts[:7]]


def _first_prompts(cache):
    return [list(Candidates.load(path).prompt_token_ids[0]) for path in cache.rglob("*.parquet")]


@pytest.mark.parametrize(
    ("overrides", "environment", "parts"),
    [
        (
            ["baseline.batch_size=6", "baseline.num_mini_batches=2"],
            {},
            ["baseline.batch_size=6", "2 processes", "multiple of 4"],
        ),
        (["baseline.batch_size=16", "baseline.whiten_rewards=true"], {}, ["baseline.batch_size=16", "at least 32"]),
        (["engine=ray"], {}, ["engine=ray", "2 processes", "must be local"]),
        (["baseline=rloo"], {}, ["baseline=rloo", "2 processes", "ppo or none"]),
        (["baseline=bon_sft"], {}, ["baseline=bon_sft", "without torchrun"]),
        ([], {"ACCELERATE_USE_DEEPSPEED": "true"}, ["ACCELERATE_USE_DEEPSPEED=true", "docs/experiments/processes.md"]),
        ([], {"ACCELERATE_USE_FSDP": "true"}, ["ACCELERATE_USE_FSDP=true"]),
    ],
)
def test_refused_before_anything_is_loaded_or_joined(overrides, environment, parts, configure, monkeypatch):
    for key, value in {"WORLD_SIZE": "2", **environment}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(processes, "_join", lambda *_: pytest.fail("joined"))
    with pytest.raises(UserError) as caught:
        processes.start(configure(*overrides))
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("device", "use_cpu", "parts"),
    [
        ("cuda:0", "false", ["device=cuda:0", "a device each"]),
        ("cuda", "false", ["--nproc_per_node=2", "1 GPUs"]),
        ("auto", "true", ["ACCELERATE_USE_CPU=true", "device=auto", "device=cpu"]),
    ],
)
def test_a_gpu_for_each_process(device, use_cpu, parts, configure, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", use_cpu)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UserError) as caught:
        processes.check(configure(f"device={device}"), 2)
    for part in parts:
        assert part in str(caught.value)


def test_what_is_allowed(configure, monkeypatch):
    for overrides in ([], ["baseline=none"], ["baseline.batch_size=32", "baseline.whiten_rewards=true"]):
        processes.check(configure("device=cpu", *overrides), 2)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes.start(configure("baseline=rloo"))
    assert (distributed.size(), distributed.rank(), distributed.first()) == (1, 0, True)


def test_a_cache_that_is_not_shared(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(distributed, "gathered", lambda rows: rows)  # the other process's answer is missing
    with pytest.raises(UserError, match=f"cache={tmp_path}: 1 of 2 processes do not see it"):
        processes._check_shared(str(tmp_path))
    assert not list(tmp_path.iterdir())


def failing():
    raise commands.HydraException("no such group")


@pytest.mark.parametrize(("rank", "waits", "line"), [("0", [], "error: no"), ("1", [30.0], "error: process 1: no")])
def test_the_first_process_tells_before_the_others(rank, waits, line, monkeypatch, capsys):
    waited = []
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(commands.time, "sleep", waited.append)
    with pytest.raises(SystemExit) as caught:
        commands.command(failing)
    assert caught.value.code == 2
    assert waited == waits
    assert capsys.readouterr().err.startswith(line)


def test_other_commands_run_in_one_process(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as caught:
        commands.command(lambda: pytest.fail("ran"))
    assert caught.value.code == 2
    assert "without torchrun" in capsys.readouterr().err
