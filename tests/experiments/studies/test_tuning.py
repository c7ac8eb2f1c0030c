"""The search for settings: who survives, by hand; seeds; what stays in the file; and every trial checked before the first."""

import numpy as np
import pytest
from omegaconf import OmegaConf

from suite.baselines.interface import Training
from suite.metrics.search import search_flops
from suite.runtime.errors import UserError
from suite.studies import tuning
from suite.studies.tuning import Yardstick, search, trial_of
from suite.studies.tuning_table import joined, read_trials, table, write_trials

SMALL = ("baseline.updates=8", "baseline.batch_size=8", "baseline.checkpoint_every=2", "num_prompts=2", "short_updates=4",
         "prices=[0.5]", "optimum_prompts=4", "num_candidates=16", "n=2")  # fmt: skip


@pytest.fixture
def make_config(compose_config, tmp_path):
    """make_config(trials, *overrides) -> a search of the smallest trainings."""

    def made(trials, *overrides):
        folders = (f"cache={tmp_path}/cache", f"results={tmp_path}")
        composed = compose_config(*SMALL, f"trials={trials}", *folders, *overrides, config_name="tune")
        return OmegaConf.to_object(composed)

    return made


def row(update, scores, kl):
    return {
        "update": update,
        "objective/scores": scores,
        "objective/kl": 99.0,
        "objective/kl_rao_blackwell": kl,
        "response/distinct_2": 0.5,
    }


@pytest.fixture
def stubbed(monkeypatch):
    """A trainer whose proxy reward is a thousand times its learning rate, more at seed 1; it notes what it was asked for."""
    asked = []

    def train(task):
        config = task.config
        asked.append((config.learning_rate, config.updates, task.seed, config.kl_coef))
        reward = 1000 * config.learning_rate + (0.4 if task.seed == 1 else 0.0)
        return Training({}, [row(u, reward, 0.2) for u in range(1, config.updates + 1)], tokens=7, flops=10**12, seconds=60.0)

    monkeypatch.setattr(tuning, "train", train)
    monkeypatch.setattr(tuning, "yardstick", lambda comparison: lambda price: Yardstick(0.1, 2.0, price < 0.1))
    return asked


TRIALS = "[['learning_rate=1e-3'],['learning_rate=3e-3'],['learning_rate=2e-3']]"


def test_the_best_of_the_short_round_are_trained_with_every_seed(make_config, stubbed):
    config = make_config(TRIALS, "survivors=2", "seeds=[0,1]")
    config.check()
    found = list(search(config))
    assert stubbed == [
        *((rate, 4, 0, 0.5) for rate in (1e-3, 3e-3, 2e-3)),
        *((rate, 8, seed, 0.5) for rate in (3e-3, 2e-3) for seed in (0, 1)),
    ]
    best = found[3]
    # 3 less 0.5 x 0.2 less the untrained 0.1 is 2.8, of 2.
    assert (best.trainer, best.settings, best.updates, best.responses, best.seed) == ("ppo", "learning_rate=3e-3", 8, 64, 0)
    assert best.gained == pytest.approx(2.8)
    assert best.share == pytest.approx(1.4)
    assert not best.share_is_bound


def test_few_trials_need_no_short_round_and_every_price_has_its_own(make_config, stubbed):
    config = make_config("[['learning_rate=1e-3']]", "prices=[0.05,2]", "seeds=[3]")
    found = list(search(config))
    assert stubbed == [(1e-3, 8, 3, 0.05), (1e-3, 8, 3, 2.0)]
    assert [trial.share_is_bound for trial in found] == [True, False]
    assert found[1].gained == pytest.approx(1.0 - 2 * 0.2 - 0.1)


def test_grpo_has_a_coefficient_of_its_own_scale(make_config, stubbed):
    config = make_config("[['kl_coef=0.04','learning_rate=1e-3']]", "baseline=grpo", "baseline.num_generations=2", "seeds=[0]")
    list(search(config))
    assert stubbed == [(1e-3, 8, 0, 0.04)]


def test_a_trial_is_the_last_quarter_of_its_log(make_config):
    log = [row(update, 100.0, 100.0) for update in range(1, 7)] + [row(7, 1.0, 2.0), row(8, 2.0, 4.0)]
    found = trial_of(
        [], Training({}, log, tokens=7, flops=8, seconds=9.0), make_config("[[]]"), 0.25, Yardstick(0.5, 1.0, False)
    )
    assert (found.settings, found.proxy, found.kl, found.distinct_2) == ("as configured", 1.5, 3.0, 0.5)
    assert found.gained == found.share == pytest.approx(1.5 - 0.75 - 0.5)
    assert (found.training_tokens, found.training_flops, found.training_seconds) == (7, 8, 9.0)


def test_the_file_keeps_other_trainers_and_prices_and_is_read_back_alike(make_config, stubbed, tmp_path):
    ppo = list(search(make_config(TRIALS, "survivors=2", "seeds=[0,1]")))
    rloo = list(search(make_config("[[]]", "baseline=rloo", "baseline.num_generations=2", "seeds=[0]")))
    write_trials(joined(ppo, rloo, "rloo", [0.5]), tmp_path / "trials.csv")
    back = read_trials(tmp_path / "trials.csv")
    assert back == ppo + rloo
    again = [rloo[0]]
    assert joined(back, again, "rloo", [0.5]) == ppo + again
    assert joined(back, [], "ppo", [0.7]) == back
    assert read_trials(tmp_path / "none.csv") == []
    (tmp_path / "old.csv").write_text("settings,objective\n")
    with pytest.raises(UserError, match=r"old\.csv is of an earlier kind of search"):
        read_trials(tmp_path / "old.csv")


def test_the_table_has_the_longest_and_best_first_the_error_over_seeds_and_who_was_not_searched(make_config, stubbed):
    found = list(search(make_config(TRIALS, "survivors=2", "seeds=[0,1]")))
    text = table(found)
    assert text.startswith("Searched: ppo. Not searched, trained as configured: rloo, grpo, bon_sft.")
    assert "ppo, 0.5 a nat:" in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| learning")]
    assert [row[0] for row in rows] == [f"learning_rate={r}e-3" for r in (3, 2, 3, 2, 1)]
    # Seeds 0 and 1 are 0.4 of 2 apart: a standard deviation of 0.141, an error of 0.1.
    assert rows[0][2:4] == ["2", f"{np.mean([1.4, 1.6]):.0%} ± 10%"]
    assert rows[2][2:4] == ["1", "140%"]  # one seed has no error over seeds
    assert rows[0][8] == "2.0"


def test_the_optimum_is_that_of_training_prompts_and_trials_are_trained_and_cached(make_config, monkeypatch):
    config = make_config("[['learning_rate=1e-3']]", "baseline.updates=2", "seeds=[0]")
    config.check()
    first = list(search(config))
    assert len(first) == 1
    assert first[0].training_tokens > 0
    assert np.isfinite(first[0].share)
    assert list(search(config)) == first
    monkeypatch.setattr(tuning, "train", lambda task: pytest.fail(f"trained {task.config}"))
    with pytest.raises(pytest.fail.Exception, match=r"learning_rate=0\.002"):
        list(search(make_config("[['learning_rate=2e-3']]", "seeds=[0]")))


def test_what_a_search_took_is_that_of_its_trainer_and_policy(tmp_path):
    (tmp_path / "config.yaml").write_text("policy: {name: tiny}\nbaseline: {name: ppo}\n")
    (tmp_path / "trials.csv").write_text("trainer,training_flops\nppo,5\nrloo,3\nppo,2\n")
    assert search_flops("ppo", "tiny", [tmp_path / "none", tmp_path]) == 7
    assert search_flops("rloo", "tiny", [tmp_path]) == 3
    assert search_flops("grpo", "tiny", [tmp_path]) is None
    assert search_flops("ppo", "smollm2", [tmp_path]) is None
    (tmp_path / "trials.csv").write_text("training_flops\n5\n")  # of the configured trainer alone
    assert search_flops("ppo", "tiny", [tmp_path]) == 5


@pytest.mark.parametrize(
    ("trials", "overrides", "said"),
    [
        ("[['learning_rat=1']]", (), "learning_rat"),
        ("[['learning_rate=-1']]", (), "greater than 0"),
        ("[['learning_rate=quick']]", (), "quick"),
        ("[['batch_size=7','num_mini_batches=2']]", (), "a divisor of"),
        ("[['critic_warmup_updates=5']]", (), "critic_warmup_updates"),  # longer than the short round
        ("[[],[]]", (), "different from each other"),
        ("[[]]", ("baseline=bon_sft",), "no other logs a KL"),
        ("[[]]", ("prices=[0]",), "greater than 0"),
        ("[[]]", ("survivors=0",), "at least 1"),
        ("[[]]", ("seeds=[1,1]",), "different numbers"),
    ],
)
def test_bad_searches_are_refused_before_anything_runs(make_config, trials, overrides, said):
    with pytest.raises(UserError) as caught:
        make_config(trials, *overrides).check()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
