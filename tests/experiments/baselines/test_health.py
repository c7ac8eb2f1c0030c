"""A training that goes wrong is told once, with the remedy; a healthy one is left in peace."""

import pytest

from suite.baselines.health import warn, warnings


def log(kl=5.0, reward=0.0, distinct=0.8, length=24.0, updates=12):
    """A log of so many updates; a sequence gives a value for each."""

    def at(value, index):
        return value[index] if isinstance(value, list) else value

    return [
        {
            "update": index + 1,
            "objective/kl": at(kl, index),
            "objective/kl_rao_blackwell": at(kl, index),
            "objective/scores": at(reward, index),
            "reward/quantile_25": at(reward, index) - 1.0,
            "reward/quantile_75": at(reward, index) + 1.0,
            "response/length": length,
            "response/distinct_2": at(distinct, index),
        }
        for index in range(updates)
    ]


RISING = [0.2 * update for update in range(12)]
SICK = {
    "kl": ({"kl": [4.0 * update for update in range(12)]}, "baseline.kl_coef", "1.6 nats a token over updates 9 to 12"),
    "reward": ({"reward": [1.5] * 8 + [0.0] * 4}, "baseline.learning_rate", "0.00 over updates 9 to 12, 1.50 up to update 4"),
    "distinct": ({"distinct": [0.8] * 6 + [0.5] * 6}, "baseline.kl_coef", "from 0.80 to 0.50"),
}


@pytest.mark.parametrize("healthy", [{}, {"reward": RISING}, {"kl": 23.9}, {"distinct": [0.8] * 6 + [0.7] * 6}])
def test_a_healthy_training_is_left_in_peace(healthy):
    assert warnings(log(**healthy)) == {}


@pytest.mark.parametrize("kind", SICK)
def test_each_illness_is_told_with_its_remedy(kind):
    values, remedy, said = SICK[kind]
    found = warnings(log(**values))
    assert list(found) == [kind]
    assert remedy in found[kind]
    assert said in found[kind]


@pytest.mark.parametrize("kind", SICK)
def test_it_is_told_once(kind, caplog):
    rows = log(**SICK[kind][0])
    for end in range(1, len(rows) + 1):
        warn(rows[:end])
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert warnings(rows)[kind].split(":")[0].split(" fell")[0] in caplog.text


def test_noise_of_a_window_is_no_collapse():
    assert warnings(log(reward=[1.0] * 8 + [0.2] * 4)) == {}
    assert set(warnings(log(reward=[1.0] * 8 + [-0.2] * 4))) == {"reward"}


def test_few_updates_say_nothing():
    assert warnings(log(kl=99.0, updates=3)) == {}
    assert warnings([]) == {}


def test_short_responses_may_spend_less():
    assert set(warnings(log(kl=5.0, length=4.0))) == {"kl"}


def test_what_a_trainer_does_not_log_is_passed_over():
    rows = [{key: row[key] for key in row if key[:8] not in ("objectiv", "response")} for row in log(kl=99.0, distinct=0.1)]
    assert warnings([{**row, "objective/scores": 0.0} for row in rows]) == {}
    # The Monte-Carlo estimate serves where the other one is missing.
    assert set(warnings([{k: v for k, v in row.items() if "rao" not in k} for row in log(kl=99.0)])) == {"kl"}
