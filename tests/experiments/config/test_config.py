"""Bad input: one line that names the key, its value and what is allowed, before a model is loaded."""

import dataclasses
import hashlib
import re
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from hydra.errors import ConfigCompositionException

from suite.comparison import setup
from suite.comparison.setup import prepare
from suite.config.baselines import BASELINES, OFF, BonSFTConfig, PPOConfig, switched_on, trained_by
from suite.config.registry import checked_config
from suite.config.run import RunConfig
from suite.data import imdb
from suite.runtime.errors import UserError
from suite.runtime.hashing import write_checksums

BAD = [
    # overrides, the key and value in the message, what the message allows
    (["n=0"], "n=0", "at least 1"),
    (["n=-3"], "n=-3", "at least 1"),
    (["baseline.precision=half"], "baseline.precision=half", "auto, float32 or bfloat16"),
    (["n=65"], "n=65", "num_candidates=64"),
    (["n=9", "num_candidates=8"], "n=9", "num_candidates=8"),
    (["num_candidates=1", "n=1"], "num_candidates=1", "at least 2"),
    (["num_prompts=1"], "num_prompts=1", "at least 2"),
    (["num_prompts=0"], "num_prompts=0", "at least 2"),
    (["seed=-1"], "seed=-1", "at least 0"),
    (["resamples=99"], "resamples=99", "at least 100"),
    (["sampling.temperature=0"], "sampling.temperature=0", "greater than 0"),
    (["sampling.temperature=-1"], "sampling.temperature=-1", "greater than 0"),
    (["sampling.temperature=nan"], "sampling.temperature=nan", "greater than 0"),
    (["sampling.top_k=-1"], "sampling.top_k=-1", "at least 0"),
    (["sampling.top_p=0", "baseline=none"], "sampling.top_p=0", "(0, 1]"),
    (["sampling.top_p=1.5", "baseline=none"], "sampling.top_p=1.5", "(0, 1]"),
    (["sampling.max_new_tokens=0"], "sampling.max_new_tokens=0", "at least 1"),
    (["task.source=cloud"], "task.source=cloud", "wheel or hub"),
    (["task.source=file"], "task.source=file", "task.prompts=FILE"),
    (["reward.path=x"], "reward.label", "reward.path with reward.label"),
    (["reward.label=x"], "reward.label=x", "say reward.proxy.label"),
    (["reward.path=x", "reward.label=y", "reward._target_=a.b"], "reward._target_=a.b", "null with reward.path=x"),
    (["task.min_prompt_tokens=0"], "task.min_prompt_tokens=0", "from 1"),
    (["task.min_prompt_tokens=9"], "task.min_prompt_tokens=9", "task.max_prompt_tokens=8"),
    (["tracking.mode=maybe"], "tracking.mode=maybe", "auto, online or offline"),
    (["tracking=trackio", "tracking.mode=offline"], "tracking.mode=offline", "only tracking=wandb has modes"),
    (["tracking=tensorboard", "tracking.entity=me"], "tracking.entity=me", "only tracking=wandb has entities"),
    (["tracking.name=mlflow"], "tracking.name=mlflow", "wandb, trackio, tensorboard or none"),
    (["baseline.updates=0"], "baseline.updates=0", "at least 1"),
    (["baseline.batch_size=1"], "baseline.batch_size=1", "at least 2"),
    (["baseline.num_mini_batches=0"], "baseline.num_mini_batches=0", "divisor of baseline.batch_size=64"),
    (["baseline.num_mini_batches=3"], "baseline.num_mini_batches=3", "divisor of baseline.batch_size=64"),
    (["baseline.num_ppo_epochs=0"], "baseline.num_ppo_epochs=0", "at least 1"),
    (["baseline.learning_rate=0"], "baseline.learning_rate=0", "greater than 0"),
    (["baseline.kl_coef=-0.1"], "baseline.kl_coef=-0.1", "at least 0"),
    (["baseline.checkpoint_every=0"], "baseline.checkpoint_every=0", "at least 1"),
    (["baseline.num_candidates=0"], "baseline.num_candidates=0", "at least 1"),
    (["baseline.checkpoint_candidates=0"], "baseline.checkpoint_candidates=0", "at least 1"),
    (["baseline.evaluate_every=0"], "baseline.evaluate_every=0", "at least 1"),
    (["baseline.name=rloo"], "baseline.name=rloo", "must be ppo (another baseline: baseline=none, baseline=rloo"),
    (["baseline=rloo", "baseline.num_generations=1"], "baseline.num_generations=1", "at least 2"),
    (["baseline=rloo", "baseline.num_generations=3"], "baseline.num_generations=3", "divisor of baseline.batch_size=64"),
    (["baseline=grpo", "baseline.num_iterations=0"], "baseline.num_iterations=0", "at least 1"),
    (["baseline=grpo", "baseline.num_mini_batches=5"], "baseline.num_mini_batches=5", "divisor of baseline.batch_size=64"),
    (["baseline=grpo", "baseline.scale_rewards=std"], "baseline.scale_rewards=std", "group, batch or none"),
    (["baseline=grpo", "baseline.kl_coef=-1"], "baseline.kl_coef=-1", "at least 0"),
    (["baseline=bon_sft", "baseline.best_of=0"], "baseline.best_of=0", "at least 1"),
    (["baseline=bon_sft", "baseline.epochs=0"], "baseline.epochs=0", "at least 1"),
    (["baseline=bon_sft", "baseline.num_prompts=0"], "baseline.num_prompts=0", "at least 1"),
    (["baseline=bon_sft", "baseline.batch_size=0"], "baseline.batch_size=0", "at least 2"),
    (["baseline=bon_sft", "baseline.updates=-1"], "baseline.updates=-1", "at least 1"),
    (["baseline=bon_sft", "baseline.learning_rate=0"], "baseline.learning_rate=0", "greater than 0"),
    (["baseline=bon_sft", "sampling.top_k=50"], "sampling.top_k", "baseline=none"),
    (["sampling.top_k=50"], "sampling.top_k", "baseline=none"),
    (["sampling.top_p=0.9"], "sampling.top_p", "baseline=none"),
]


@pytest.mark.parametrize(("overrides", "named", "allowed"), BAD, ids=[",".join(bad[0]) for bad in BAD])
def test_bad_values(configure, overrides, named, allowed):
    with pytest.raises(UserError) as caught:
        configure(*overrides).check()
    message = str(caught.value)
    assert named in message
    assert allowed in message
    assert "\n" not in message


GOOD = [
    [],
    ["n=1"],
    ["n=64"],
    ["seed=1"],
    ["num_prompts=512"],
    ["num_candidates=256", "n=256"],
    ["baseline=none"],
    ["baseline=none", "sampling.top_k=50"],
    ["baseline=none", "sampling.top_p=0.9"],
    ["sampling.temperature=0.7"],
    ["baseline.num_mini_batches=4"],
    ["baseline.kl_coef=0"],
    ["experiment=smoke"],
    *([f"baseline={name}", *extra] for name in BASELINES for extra in ([], ["experiment=smoke"])),
    ["baseline=rloo", "baseline.num_generations=64", "baseline.normalize_advantages=true"],
    ["baseline=grpo", "baseline.num_mini_batches=4", "baseline.num_iterations=2", "baseline.scale_rewards=none"],
    ["baseline=bon_sft", "baseline.best_of=1", "baseline.epochs=1"],
]


@pytest.mark.parametrize("overrides", GOOD, ids=[",".join(good) or "defaults" for good in GOOD])
def test_good_values(configure, overrides):
    configure(*overrides).check()


@pytest.mark.parametrize(
    ("baseline", "key"),
    [
        *(("ppo", key) for key in ("num_generations", "best_of", "epochs", "normalize_advantages")),
        *(("rloo", key) for key in ("vf_coef", "num_ppo_epochs", "critic", "scale_rewards", "best_of")),
        *(("grpo", key) for key in ("lam", "gamma", "normalize_advantages", "epochs")),
        *(("bon_sft", key) for key in ("kl_coef", "num_generations", "num_mini_batches", "cliprange")),
        *(("none", key) for key in ("kl_coef", "learning_rate", "epochs")),
    ],
)
def test_an_option_that_the_trainer_does_not_read_is_refused(compose_config, baseline, key):
    with pytest.raises(ConfigCompositionException) as caught:
        compose_config(f"baseline={baseline}", f"baseline.{key}=1")
    cause = str(caught.value.__cause__)
    assert cause.startswith(f"Key '{key}' not in '{BASELINES[baseline].__name__}'")


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_baseline_without_further_words_has_the_defaults_of_its_class(configure, baseline):
    made = configure(f"baseline={baseline}").baseline
    assert type(made) is BASELINES[baseline]
    assert made == BASELINES[baseline](name=baseline)


@pytest.mark.parametrize(
    ("settings", "updates", "num_prompts"),
    [
        ({}, 32, 256),
        ({"epochs": 1, "num_prompts": 65}, 3, 65),
        ({"updates": 5}, 5, 160),
        ({"updates": 500}, 32, 256),
        ({"epochs": 3, "num_prompts": 10, "batch_size": 16}, 2, 10),
        ({"updates": 1, "batch_size": 8}, 1, 8),
    ],
)
def test_updates_of_a_fine_tuning(settings, updates, num_prompts):
    for made in (BonSFTConfig(**settings), dataclasses.replace(BonSFTConfig(**settings), num_candidates=3)):
        assert (made.updates, made.num_prompts) == (updates, num_prompts)


def test_keys_that_are_off_are_no_part_of_what_names_a_training():
    plain = trained_by(PPOConfig())
    assert "ema_decay" not in plain
    assert "line_steps" not in plain
    assert trained_by(PPOConfig(line_steps=[0.5])) == plain  # an evaluation's
    assert trained_by(PPOConfig(ema_decay=0.9)) == {**plain, "ema_decay": 0.9}
    assert "choice" not in trained_by(BonSFTConfig())
    assert trained_by(BonSFTConfig(choice="random"))["choice"] == "random"
    assert "line_steps" in switched_on(PPOConfig(line_steps=[0.5]))  # a study's pools are others with it
    assert OFF.keys() <= {field.name for kind in BASELINES.values() for field in dataclasses.fields(kind)}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("baseline.ema_decay=1", "at least 0 and less than 1"),
        ("baseline.line_steps=[1]", "0 is the base policy and 1 the trained one"),
        ("baseline.line_steps=[0.5,0.5]", "different numbers"),
        ("baseline.line_steps=[-1]", "greater than 0"),
    ],
)
def test_policies_beside_the_trained_one(configure, override, said):
    with pytest.raises(UserError, match=override.partition("=")[0]) as caught:
        configure("baseline=rloo", override).check()
    assert said in str(caught.value)
    configure("baseline=rloo", "baseline.ema_decay=0.9", "baseline.line_steps=[0.5,1.5]").check()


@pytest.mark.parametrize("key", ["results", "cache"])
@pytest.mark.parametrize("below", ["", "/deeper/still"])
def test_folder_that_cannot_be_written(configure, tmp_path, key, below):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=f"^{key}={tmp_path}/file{below} cannot be written") as caught:
        configure(f"{key}={tmp_path}/file{below}").check()
    assert str(tmp_path / "file") in str(caught.value).split("written:")[1]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that takes no files from root either")
@pytest.mark.parametrize("folder", ["/proc", "/proc/none", "/proc/self/none/deeper"])
@pytest.mark.parametrize("key", ["results", "cache"])
def test_permissions_alone_are_not_believed(configure, key, folder):
    with pytest.raises(UserError, match=f"^{key}={folder} cannot be written: /proc.* is not a folder this user can write to"):
        configure(f"{key}={folder}").check()


@pytest.mark.parametrize("key", ["results", "cache"])
def test_checking_leaves_nothing_behind(configure, tmp_path, key):
    for folder in (tmp_path / "new" / "folder", tmp_path):
        configure("results=/tmp", "cache=/tmp", f"{key}={folder}").check()
        assert list(tmp_path.iterdir()) == []


def test_checked_config_is_made_of_dataclasses(compose_config):
    config = checked_config(compose_config("n=4"))
    assert type(config) is RunConfig
    assert config.n == 4
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        assert dataclasses.is_dataclass(value) or value is None or isinstance(value, int | float | str)
    with pytest.raises(UserError, match="n=0"):
        checked_config(compose_config("n=0"))


@pytest.fixture
def no_model(monkeypatch):
    """Loading a model is an error of the test."""

    def loaded(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(setup, "load_policy", loaded)
    monkeypatch.setattr(setup, "load_judge", loaded)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["num_prompts=100000"], r"^num_prompts=100000.*evaluation split has (\d+)"),
        (["baseline.batch_size=100000"], r"^baseline\.batch_size=100000.*split has (\d+)"),
        (["baseline=rloo", "baseline.batch_size=400000"], r"^baseline\.batch_size=400000.*split has (\d+).*takes 100000"),
        (["baseline=bon_sft", "baseline.num_prompts=100000"], r"^baseline\.num_prompts=100000.*split has (\d+)"),
    ],
)
def test_more_than_the_data_hold(configure, fewer_reviews, no_model, fewer_splits, overrides, named):
    with pytest.raises(UserError, match=named) as caught:
        prepare(configure(*overrides))
    found = int(re.match(named, str(caught.value))[1])
    split = "evaluation" if overrides[0].startswith("num_prompts") else "ppo"
    assert found == sum(len(review.text) > 200 for review in fewer_splits[split])


def test_all_prompts_of_the_split_can_be_had(configure, fewer_reviews, fewer_splits):
    """Training takes what is left without the evaluation prompts, and says how much that is where it needs more."""
    texts = {name: sum(len(review.text) > 200 for review in fewer_splits[name]) for name in imdb.PROMPT_SPLITS}
    every = prepare(configure(f"num_prompts={texts['evaluation']}", "baseline=none"))
    assert len(every.evaluation_prompts) == texts["evaluation"]
    evaluated = {tuple(ids) for ids in every.evaluation_prompts}
    with pytest.raises(UserError, match=r"^baseline\.batch_size=\d+: the training split has \d+ prompts that") as refused:
        prepare(configure("num_prompts=4", f"baseline.batch_size={texts['ppo']}"))
    left = int(re.search(r"has (\d+) prompts", str(refused.value))[1])
    made = prepare(configure("num_prompts=4", f"baseline.batch_size={left}"))
    assert len(made.training_prompts) == left < texts["ppo"]
    assert not evaluated & {tuple(ids) for ids in made.training_prompts}


def test_a_batch_of_no_baseline_is_not_compared(configure, fewer_reviews):
    assert prepare(configure("baseline=none", "baseline.batch_size=100000", "num_prompts=4")).config.num_prompts == 4


@pytest.mark.parametrize(
    ("override", "key"), [("policy", "policy"), ("reward.proxy", "reward.proxy"), ("reward.gold", "reward.gold")]
)
def test_missing_weights(configure, no_model, tmp_path, override, key):
    with pytest.raises(UserError, match=rf"^{key}.*{tmp_path}/nowhere/model.safetensors is missing.*safetensors alone"):
        prepare(configure(f"{override}.path={tmp_path}/nowhere"))


@pytest.mark.parametrize("key", ["policy", "reward.proxy", "reward.gold"])
def test_damaged_weights(configure, no_model, models, tmp_path, key):
    name = key.removeprefix("reward.")
    shutil.copytree(models / name, tmp_path / "tiny" / name)
    write_checksums(tmp_path / "tiny")
    weights = tmp_path / "tiny" / name / "model.safetensors"
    whole = hashlib.sha256(weights.read_bytes()).hexdigest()
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(
        UserError, match=rf"^{key}.*{weights} is damaged \(SHA-256 [0-9a-f]{{12}}, expected SHA-256 {whole[:12]}"
    ):
        prepare(configure(f"{key}.path={tmp_path}/tiny/{name}"))


def test_hub_task_without_a_hub(configure, no_model, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"^task\.path=stanfordnlp/imdb: not in the cache.*without a hub, use task=imdb$"):
        prepare(configure("task=imdb_hub"))


def test_missing_reviews(configure, no_model, monkeypatch):
    def read_wheel():
        raise FileNotFoundError("not installed")

    monkeypatch.setattr(imdb, "read_wheel", read_wheel)
    with pytest.raises(UserError, match=r"^task=imdb: not installed"):
        prepare(configure())


def test_device_that_is_not_there(configure, no_model, fewer_reviews):
    with pytest.raises(UserError, match=r"device=abacus.*auto, cpu or cuda"):
        prepare(configure("device=abacus"))
