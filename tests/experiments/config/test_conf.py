"""Every file in conf/ composes, every combination that can run offline gets to loaded models, every key has a default."""

import dataclasses
import itertools

import pytest
from omegaconf import MISSING, OmegaConf

from suite.comparison.setup import prepare
from suite.config.baselines import BASELINES, PPOConfig
from suite.config.models import PretrainConfig
from suite.config.registry import checked_config
from suite.config.run import RunConfig
from suite.config.studies import FrontierConfig, ReproduceConfig
from suite.runtime.paths import REPOSITORY

CONF = REPOSITORY / "conf"
GROUPS = {
    folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
    for folder in CONF.iterdir()
    if folder.is_dir() and folder.name != "hydra"
}
CHOICES = [(group, choice) for group, choices in sorted(GROUPS.items()) for choice in choices]
"""The groups and files as they are now: a new file is tested by being there."""


def leaves(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_the_groups_of_the_design():
    assert set(GROUPS) == {"task", "policy", "reward", "sampling", "baseline", "tracking", "engine", "experiment"}


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids=["=".join(pair) for pair in CHOICES])
def test_every_choice_composes(compose_config, group, choice):
    composed = compose_config(f"{group}={choice}")
    checked_config(composed)
    if group not in ("experiment", "sampling"):
        assert composed[group].name == choice


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids=["=".join(pair) for pair in CHOICES])
def test_every_file_has_an_effect_or_says_the_defaults(group, choice):
    text = (CONF / group / f"{choice}.yaml").read_text()
    keys = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert keys


@pytest.mark.parametrize("baseline", BASELINES)
def test_every_key_has_a_default(compose_config, baseline):
    composed = OmegaConf.to_container(compose_config(f"baseline={baseline}"), throw_on_missing=True)
    expected = dataclasses.asdict(RunConfig(baseline=BASELINES[baseline]()))
    assert {key for key, _ in leaves(composed)} == {key for key, _ in leaves(expected)}
    assert MISSING not in [value for _, value in leaves(composed)]


def test_every_key_can_be_said_on_the_command_line(compose_config):
    composed = OmegaConf.to_container(compose_config())
    said = [f"{key}={'null' if value is None else value}" for key, value in leaves(composed)]
    assert OmegaConf.to_container(compose_config(*said)) == composed
    assert len(said) > 40


def test_defaults_of_files_and_schema_agree(compose_config):
    composed = dict(leaves(OmegaConf.to_container(compose_config())))
    for key, default in leaves(dataclasses.asdict(RunConfig(baseline=PPOConfig()))):
        if default != MISSING and key not in ("task.path",):
            assert composed[key] == default, key


def test_experiments_hold_only_what_differs(compose_config):
    usual = dict(leaves(OmegaConf.to_container(compose_config())))
    for choice in GROUPS["experiment"]:
        special = OmegaConf.load(CONF / "experiment" / f"{choice}.yaml")
        special.pop("defaults", None)
        special.pop("hydra", None)  # of a sweep
        composed = dict(leaves(OmegaConf.to_container(compose_config(f"experiment={choice}"))))
        for key, value in leaves(OmegaConf.to_container(special)):
            assert composed[key] == value
            assert usual[key] != value, f"{key} is what it is anyway"


def test_the_command_line_wins_over_an_experiment(compose_config):
    assert compose_config("experiment=smoke", "n=2", "tracking=wandb").n == 2
    assert compose_config("experiment=smoke", "n=2", "tracking=wandb").tracking.name == "wandb"


def test_every_file_opens_with_words_or_is_short():
    for group, choices in GROUPS.items():
        for choice in choices:
            lines = (CONF / group / f"{choice}.yaml").read_text().splitlines()
            assert "#" in "".join(lines) or len(lines) <= 2, f"{group}/{choice}"


#: Policy, reward, baseline, tracking, experiment: what meets in a run's preparation, in all its pairs.
COMBINATIONS = [
    *itertools.product(GROUPS["policy"], GROUPS["reward"], ["ppo"], ["wandb"], [None]),
    *itertools.product(["tiny"], ["tiny"], GROUPS["baseline"], ["none"], [*GROUPS["experiment"], None]),
    *itertools.product(["tiny"], ["tiny"], ["none"], GROUPS["tracking"], [None]),
]


@pytest.mark.parametrize("sampling", GROUPS["sampling"])
@pytest.mark.parametrize("task", GROUPS["task"])
def test_every_combination_gets_ready(configure, fewer_reviews, models, task, sampling):
    """Names of the hub are replaced by the tiny models, its data by the wheel's."""
    for policy, reward, baseline, tracking, experiment in COMBINATIONS:
        choices = {
            "task": task,
            "sampling": sampling,
            "policy": policy,
            "reward": reward,
            "baseline": baseline,
            "tracking": tracking,
            "experiment": experiment,
        }
        few = {"bon_sft": ["baseline.num_prompts=64"], "published": [f"baseline.path={models}/policy"]}.get(baseline, [])
        few = few + (["num_prompts=64"] if experiment == "kl_frontier" else [])
        config = configure(*(f"{group}={choice}" for group, choice in choices.items() if choice), *few)
        config.check()
        ready = prepare(config)
        assert len(ready.evaluation_prompts) == config.num_prompts
        assert len(ready.training_prompts) >= config.baseline.prompts_needed[2]
        assert set(ready.judges) == {"proxy", "gold"}
        assert ready.policy.name == policy
        assert all(2 <= len(prompt) <= 8 for prompt in ready.evaluation_prompts + ready.training_prompts)
        assert not ready.folder.parent.exists()


def test_every_baseline_says_its_command_and_its_time():
    for choice in GROUPS["baseline"]:
        lines = (CONF / "baseline" / f"{choice}.yaml").read_text().splitlines()
        assert lines[0].startswith(f"# python experiments/run.py baseline={choice}: ")
        assert choice == "none" or any(" s " in line for line in lines if line.startswith("#"))


def test_names_of_runs_differ(configure, fewer_reviews):
    settings = [[], ["n=2"], ["seed=1"], ["baseline.kl_coef=0.3"], ["sampling.temperature=0.9"], ["baseline=rloo"]]
    small = ["num_prompts=4", "baseline.batch_size=8"]
    names = [prepare(configure(*small, *extra)).name for extra in settings]
    assert len(set(names)) == len(settings)
    assert prepare(configure(*small)).name == names[0]
    assert prepare(configure(*small, "name=mine")).name == "mine"


def test_the_sweep_of_the_frontier_is_that_of_the_study(compose_config):
    composed = compose_config("experiment=kl_frontier", return_hydra_config=True)
    swept = {key: [float(value) for value in str(values).split(",")] for key, values in composed.hydra.sweeper.params.items()}
    study = OmegaConf.to_object(compose_config(config_name="reproduce")).frontier
    assert swept == {"baseline.kl_coef": [t.kl_coef for t in study.trainings if t.baseline == "ppo"], "seed": [0, 1, 2]}
    assert (composed.num_prompts, composed.num_candidates) == (study.num_prompts, study.num_candidates)


def test_reproduction_composes(compose_config):
    composed = OmegaConf.to_object(compose_config(config_name="reproduce"))
    assert composed == ReproduceConfig(
        overrides=composed.overrides, frontier=FrontierConfig(trainings=composed.frontier.trainings)
    )
    composed.check()
    assert all(t.overrides["updates"] * t.overrides["batch_size"] == 16384 for t in composed.frontier.trainings if t.overrides)
    run = compose_config(*composed.overrides)
    for override in composed.overrides:
        key, value = override.split("=")
        assert str(OmegaConf.select(run, key)) == value


def test_pretraining_composes(compose_config):
    composed = compose_config(config_name="pretrain")
    settings = OmegaConf.to_object(composed)
    assert type(settings) is PretrainConfig
    assert settings == PretrainConfig()
    changed = OmegaConf.to_object(compose_config("parts=[proxy]", "proxy.steps=3", config_name="pretrain"))
    assert changed.parts == ["proxy"]
    assert changed.proxy.steps == 3
