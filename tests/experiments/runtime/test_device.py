"""Which numbers a device computes with: chosen by what the device has, mixed on GPUs alone."""

import os

import pytest
import torch
from accelerate.state import AcceleratorState

from suite.baselines import updates
from suite.config.baselines import PPOConfig
from suite.runtime import device as devices
from suite.runtime.device import autocast, choose_dtype, determining, has_bfloat16, mixes, trainers_mix
from suite.runtime.errors import UserError

CPU, GPU = torch.device("cpu"), torch.device("cuda")
VARIABLE = "ACCELERATE_MIXED_PRECISION"


@pytest.fixture
def units(monkeypatch):
    """units(*device types): those have bfloat16 here, others do not."""
    return lambda *types: monkeypatch.setattr(devices, "has_bfloat16", lambda device: device.type in types)


def test_single_precision_on_a_cpu(units):
    units("cpu", "cuda")
    assert choose_dtype("auto", CPU) == torch.float32
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16
    units()
    with pytest.raises(UserError, match=r"policy\.dtype=bfloat16: this cpu has no units for it; use policy\.dtype=float32"):
        choose_dtype("bfloat16", CPU)
    with pytest.raises(UserError, match=r"policy\.dtype=half is not allowed: must be auto, float32 or bfloat16"):
        choose_dtype("half", CPU)


def test_bfloat16_on_a_gpu_that_has_it(units):
    units("cuda")
    assert choose_dtype("auto", GPU) == torch.bfloat16
    assert choose_dtype("float32", GPU) == torch.float32
    units("cpu")
    assert choose_dtype("auto", GPU) == torch.float32


def test_precisions_mix_on_gpus_alone(units, monkeypatch):
    units("cpu", "cuda")
    assert mixes(GPU)
    assert not mixes(CPU)
    asked = []
    monkeypatch.setattr(devices.torch, "autocast", lambda *arguments: asked.append(arguments))
    autocast(GPU)
    assert asked == [("cuda", torch.bfloat16)]
    with autocast(CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert len(asked) == 1
    units("cpu")
    assert not mixes(GPU)


@pytest.mark.parametrize("before", [None, "fp16"])
def test_trainers_are_told_and_the_environment_is_as_it_was(units, monkeypatch, before):
    units("cuda")
    monkeypatch.delenv(VARIABLE, raising=False)
    if before:
        monkeypatch.setenv(VARIABLE, before)
    with trainers_mix(GPU):
        assert os.environ[VARIABLE] == "bf16"
    with trainers_mix(CPU):
        assert os.environ[VARIABLE] == "no"
    assert os.environ.get(VARIABLE) == before


def test_a_trainer_on_a_cpu_mixes_nothing(training_task, tmp_path, monkeypatch):
    """Whatever the environment says: the state that TRL's PPO computes under is read while it trains."""
    monkeypatch.setenv(VARIABLE, "bf16")
    seen = []
    row = updates.update_row

    def noted(*arguments):
        seen.append(AcceleratorState().mixed_precision)
        return row(*arguments)

    from suite.baselines import ppo
    from suite.baselines.interface import train

    monkeypatch.setattr(ppo, "update_row", noted)
    AcceleratorState._reset_state()
    train(training_task(PPOConfig, tmp_path, updates=1))
    assert seen == ["no"]


def test_a_precision_that_is_asked_for(units):
    units("cpu", "cuda")
    assert mixes(CPU, "bfloat16")
    assert not mixes(GPU, "float32")
    # What auto means is the same training, whatever it is called.
    assert determining(CPU, "auto") == determining(CPU, "float32") == determining(GPU, "bfloat16") == {}
    assert determining(CPU, "bfloat16") == {"precision": "bfloat16"}
    assert determining(GPU, "float32") == {"precision": "float32"}
    units()
    with pytest.raises(UserError, match=r"^baseline\.precision=bfloat16: this cpu has no units for it; use .*=float32$"):
        mixes(CPU, "bfloat16")


@pytest.mark.skipif(not has_bfloat16(CPU), reason="this CPU has no units for bfloat16")
def test_a_cpu_mixes_when_it_is_asked_to(training_task, tmp_path, monkeypatch):
    """The trainer's own products too, after a training in single precision and before another."""
    seen = []
    row = updates.update_row

    def noted(*arguments):
        seen.append(AcceleratorState().mixed_precision)
        return row(*arguments)

    from suite.baselines import ppo
    from suite.baselines.interface import train

    monkeypatch.setattr(ppo, "update_row", noted)
    logs = {}
    for name, asked in (("first", "auto"), ("half", "bfloat16"), ("last", "float32")):
        logs[name] = train(training_task(PPOConfig, tmp_path / name, precision=asked)).log
    assert seen == ["no", "no", "bf16", "bf16", "no", "no"]
    single, half, last = ([row["loss/value_avg"] for row in log] for log in logs.values())
    assert single == last != half
    with pytest.raises(UserError, match=r"\(precision=bfloat16 there, precision=None here\)"):
        train(training_task(PPOConfig, tmp_path / "half"))
    assert train(training_task(PPOConfig, tmp_path / "first", precision="float32")).reused


def test_an_update_beyond_the_memory_is_one_line(training_task, tmp_path):
    def full(task, resume):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80.00 GiB")

    with pytest.raises(UserError, match=r"baseline\.batch_size=8 does not fit.*smaller or baseline\.num_mini_batches larger$"):
        updates.resumable(training_task(PPOConfig, tmp_path), full)
