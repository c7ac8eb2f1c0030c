"""What can be mended ends in one line on stderr and exit code 2; the real command is started in processes of its own."""

import importlib
import importlib.machinery
import importlib.util
import sys
from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError

import suite
from suite.config.baselines import PPOConfig
from suite.runtime.command import command, job
from suite.runtime.errors import UserError
from suite.runtime.paths import REPOSITORY, located


def test_paths_start_at_the_repository(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert located("results") == REPOSITORY / "results"
    assert located(tmp_path / "results") == tmp_path / "results"
    assert located("~/results") == tmp_path / "results"
    assert (REPOSITORY / "pyproject.toml").is_file()


def raising(error):
    def main():
        raise error

    return main


def chained():
    try:
        raise ConfigKeyError("Key 'nn' not in 'RunConfig'\n    full_key: nn\n    object_type=RunConfig")
    except ConfigKeyError as cause:
        raise ConfigCompositionException("Could not override 'nn'.") from cause


@pytest.mark.parametrize(
    ("main", "parts"),
    [
        (raising(ConfigCompositionException("no\nsuch\n\tgroup")), ["error: no such group"]),
        (chained, ["error: Key 'nn' not in 'RunConfig'"]),
    ],
)
def test_what_the_user_can_mend(monkeypatch, capsys, main, parts):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    with pytest.raises(SystemExit) as caught:
        command(main)
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    for part in parts:
        assert part in printed.err


def test_a_job_ends_in_one_line_before_hydra_adds_its_own(capsys):
    @job
    def main(config):
        raise UserError(f"n={config.n} is not allowed")

    with pytest.raises(SystemExit) as caught:
        main(OmegaConf.create({"n": 0}))
    assert caught.value.code == 2
    assert capsys.readouterr() == ("", "error: n=0 is not allowed\n")


def test_stopped_by_the_user(monkeypatch, capsys):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    with pytest.raises(SystemExit) as caught:
        command(raising(KeyboardInterrupt()))
    assert caught.value.code == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_mistakes_of_the_program_keep_their_traceback(monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    with pytest.raises(ZeroDivisionError):
        command(raising(ZeroDivisionError()))


def test_a_run_that_goes_well_says_nothing(monkeypatch, capsys):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    assert command(lambda: None) is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("found", [None, importlib.machinery.ModuleSpec("trl", None)], ids=["absent", "a folder of that name"])
def test_a_missing_extra_is_named(monkeypatch, capsys, found):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found if name in ("trl", "wandb") else real(name))
    with pytest.raises(SystemExit) as caught:
        importlib.reload(suite)
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert "not installed: trl, wandb" in printed
    assert 'pip install -e ".[suite]"' in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (["-m", "seed=0,0"], "seed=0,0 is not allowed: must be a sweep without duplicates (0 is there twice)"),
        (
            ["n=2,4", "-m", "seed=2,1,2,1"],
            "seed=2,1,2,1 is not allowed: must be a sweep without duplicates (1, 2 is there twice)",
        ),
        (["-m", "seed=choice(1,2,1)"], "seed=1,2,1 is not allowed"),
        (["-m", "baseline.kl_coef=0.1,0.10"], "baseline.kl_coef=0.1,0.1 is not allowed"),
        (["-m", "baseline=ppo,rloo,ppo"], "baseline=ppo,rloo,ppo is not allowed"),
        (["-m", "seed=0,1", "n=2,4"], None),
        (["-m", "seed=range(0,5)"], None),
        (["seed=0", "n=0"], None),
        (["policy.path='a,a'"], None),
        (["--cfg", "job", "-m", "seed=("], None),  # Hydra's to refuse
    ],
)
def test_a_sweep_has_no_value_twice(monkeypatch, capsys, arguments, wrong):
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    if wrong is None:
        assert command(lambda: None) is None
        return
    with pytest.raises(SystemExit) as caught:
        command(raising(AssertionError("the first job began")))
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {wrong}")
    assert told.count("\n") == 1


COMMANDS = {
    "zero": ["n=0"],
    "cold": ["sampling.temperature=0"],
    "policy": ["policy=unknown"],
    "key": ["candidates=8"],
    "folder": ["results=/proc/none"],
    "shown": ["--cfg", "job"],
    "help": ["--help"],
}


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory):
    """{name: (exit code, stdout, stderr)} of every command, two at a time; none of them may need a model."""
    results, waiting, running = {}, dict(COMMANDS), {}
    while waiting or running:
        while waiting and len(running) < 2:
            name = next(iter(waiting))
            missing = "policy.path=/nowhere/policy"
            extra = [] if waiting[name][0].startswith("--") else [missing]
            running[name] = start(*waiting.pop(name), *extra, cwd=tmp_path_factory.mktemp(name))
        name = next(iter(running))
        out, err = running[name].communicate(timeout=1200)
        results[name] = (running.pop(name).returncode, out, err)
    return results


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("zero", ["n=0", "at least 1"]),
        ("cold", ["sampling.temperature=0", "greater than 0"]),
        ("policy", ["policy", "unknown", "gpt2_imdb", "tiny"]),
        ("key", ["candidates"]),
        ("folder", ["results=/proc/none cannot be written"]),
    ],
)
def test_bad_input_ends_in_one_line_and_code_2(finished, name, parts):
    code, out, err = finished[name]
    assert code == 2
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    for part in parts:
        assert part in last
    assert last.count("(") == last.count(")")
    assert out == ""


@pytest.mark.parametrize("name", ["zero", "cold", "policy", "key", "folder"])
def test_nothing_but_that_line_is_on_stderr(finished, name):
    assert len(finished[name][2].strip().splitlines()) == 1


def test_the_configuration_is_shown(finished):
    code, out, _ = finished["shown"]
    assert code == 0
    for line in ("'n': 8", "num_prompts: 256", "  max_new_tokens: 24", f"  kl_coef: {PPOConfig().kl_coef}"):
        assert line in out.splitlines()


def test_help_is_for_people(finished):
    code, out, _ = finished["help"]
    assert code == 0
    for part in (
        "python experiments/run.py n=8",
        "baseline: bon_sft, grpo, none, ppo, published, rloo",
        "policy: gpt2_imdb, smollm2, smollm2_imdb, tiny",
        "num_candidates: 64",
    ):
        assert part in out
    told = " ".join(out.partition("What each key means")[2].split())
    for part in (
        "n Best of how many.",
        "task.column The field of that file that holds the prompt.",
        "baseline.vf_coef Weight of",
    ):
        assert part in told


def test_commands_leave_nothing_behind(finished, tmp_path_factory):
    base = Path(tmp_path_factory.getbasetemp())
    left = [path for name in COMMANDS for folder in base.glob(f"{name}[0-9]*") for path in folder.rglob("*.*")]
    assert [path for path in left if path.suffix in (".log", ".yaml", ".wandb")] == []
