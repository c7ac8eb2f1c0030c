"""The search for settings: every trial is checked before the first one runs, and the table says what the logs say."""

import csv

import pytest
from omegaconf import OmegaConf

from suite.baselines.interface import Training
from suite.runtime.errors import UserError
from suite.studies import tuning
from suite.studies.tuning import Trial, table, tune, write_trials


@pytest.fixture
def make_config(compose_config, tmp_path):
    """make_config(trials, *overrides) -> a search of the smallest trainings."""

    def made(trials, *overrides):
        small = ["baseline.updates=2", "baseline.batch_size=8", "baseline.checkpoint_every=2", "num_prompts=2"]
        composed = compose_config(
            *small, f"trials={trials}", f"cache={tmp_path}/cache", f"results={tmp_path}", *overrides, config_name="tune"
        )
        return OmegaConf.to_object(composed)

    return made


def row(update, scores, kl, kl_rao_blackwell):
    return {
        "update": update,
        "objective/scores": scores,
        "objective/kl": kl,
        "objective/kl_rao_blackwell": kl_rao_blackwell,
        "response/distinct_2": 0.5,
    }


def test_a_trial_is_the_last_quarter_of_its_log():
    log = [row(update, 100.0, 100.0, 100.0) for update in range(1, 7)] + [row(7, 1.0, 2.0, 3.0), row(8, 2.0, 4.0, 5.0)]
    trial = Trial.of(["learning_rate=1"], Training({}, log, tokens=7, flops=8, seconds=9.0), kl_coef=0.25)
    assert (trial.settings, trial.proxy, trial.kl, trial.distinct_2) == ("learning_rate=1", 1.5, 4.0, 0.5)
    assert trial.objective == 0.75  # of 1 - 0.5 and 2 - 1
    assert trial.objective_error == 0.25
    assert (trial.training_tokens, trial.training_flops, trial.training_seconds) == (7, 8, 9.0)


def test_the_table_has_the_best_first(tmp_path):
    logs = [[row(1, 0.0, 0.0, 0.0)] * 4, [row(1, 2.0, 0.0, 0.0)] * 4]
    trials = [Trial.of([f"k={i}"], Training({}, log), 0.1) for i, log in enumerate(logs)]
    assert [line.split("|")[1].strip() for line in table(trials).splitlines()[2:]] == ["k=1", "k=0"]
    write_trials(trials, tmp_path / "trials.csv")
    with (tmp_path / "trials.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["settings"] for line in lines] == ["k=0", "k=1"]
    assert [float(line["objective"]) for line in lines] == [0.0, 2.0]


def test_trials_are_trained_and_cached(make_config, monkeypatch):
    config = make_config("[[],['learning_rate=1e-3']]")
    config.check()
    first = list(tune(config))
    assert [trial.settings for trial in first] == ["as configured", "learning_rate=1e-3"]
    assert first[0].proxy != first[1].proxy  # update 2 follows another update 1
    assert first[0].training_tokens > 0
    again = list(tune(config))
    assert str(again) == str(first)  # the error of a single update is nan
    monkeypatch.setattr(tuning, "train", lambda task: pytest.fail(f"trained {task.config}"))
    with pytest.raises(pytest.fail.Exception, match=r"learning_rate=0\.001"):
        list(tune(make_config("[['learning_rate=1e-3']]")))


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        ("[['learning_rat=1']]", "learning_rat"),
        ("[['learning_rate=-1']]", "greater than 0"),
        ("[['learning_rate=quick']]", "quick"),
        ("[['batch_size=7','num_mini_batches=2']]", "a divisor of"),
        ("[[],[]]", "different from each other"),
    ],
)
def test_bad_trials_are_refused_before_anything_runs(make_config, trials, said):
    with pytest.raises(UserError, match="trials") as caught:
        make_config(trials).check()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
