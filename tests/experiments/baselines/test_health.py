"""A training that goes wrong is told once, with the remedy; a healthy one is left in peace."""

import pytest

from suite.baselines.health import warn, warnings


def log(kl=0.3, reward=0.0, distinct=0.8, length=24.0, updates=12):
    """A log of so many updates; a sequence gives a value for each."""

    def at(value, index):
        return value[index] if isinstance(value, list) else value

    return [
        {
            "update": index + 1,
            "episode": 64 * (index + 1),
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
    "kl": (
        {"kl": [0.0, 0.4] + [4.0 * update for update in range(2, 12)]},
        "baseline.kl_coef",
        "1.6 nats a token over updates 9 to 12",
    ),
    "reward": ({"reward": [1.5] * 8 + [0.0] * 4}, "baseline.learning_rate", "0.00 over updates 9 to 12, 1.50 up to update 4"),
    "distinct": ({"distinct": [0.8] * 6 + [0.5] * 6}, "baseline.kl_coef", "from 0.80 to 0.50"),
}


@pytest.mark.parametrize(
    "healthy", [{}, {"reward": RISING}, {"kl": [0.0] + [0.4] * 2 + [23.9] * 9}, {"distinct": [0.8] * 6 + [0.7] * 6}]
)
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
    assert set(warnings(log(kl=[0.0] + [0.4] * 2 + [5.0] * 9, length=4.0))) == {"kl"}


def test_what_a_trainer_does_not_log_is_passed_over():
    rows = [{key: row[key] for key in row if key[:8] not in ("objectiv", "response")} for row in log(kl=99.0, distinct=0.1)]
    assert warnings([{**row, "objective/scores": 0.0} for row in rows]) == {}
    # The Monte-Carlo estimate serves where the other one is missing.
    assert set(warnings([{k: v for k, v in row.items() if "rao" not in k} for row in log(kl=99.0)])) == {"kl"}


def test_a_first_update_that_jumps_is_told_at_once(caplog):
    jumps = log(kl=[0.0, 2.9, 3.5, 4.0], updates=4)
    warn(jumps[:1])
    assert not caplog.records
    warn(jumps[:2])
    assert "the first update moved the policy 2.9 nats" in caplog.text
    assert "lower baseline.learning_rate, set baseline.warmup_updates, or raise baseline.updates" in caplog.text
    assert warnings(log(kl=[0.0, 0.5, 3.5], updates=3)) == {}
    # A critic that is warmed up alone leaves the policy where it is.
    assert set(warnings(log(kl=[0.0] * 4 + [0.8, 0.9], updates=6))) == {"first"}


def test_an_objective_below_no_training_is_told_with_both_numbers():
    # Reward rises from 0 to 1 and 2 nats are paid for it, at 0.6 each: 1 - 1.2 = -0.2. The standard error of 64 responses
    # whose quartiles are 2 apart is 0.19, two of them 0.37.
    reward, kl = [0.0] + [1.0] * 11, [0.0, 0.4] + [2.0] * 10
    assert warnings(log(kl=kl, reward=reward), 0.6) == {}
    found = warnings(log(kl=kl, reward=reward), 0.9)
    assert set(found) == {"objective"}
    assert "less 0.9 x KL) ends at -0.80, below the untrained policy's 0.00" in found["objective"]
    assert "baseline.warmup_updates" in found["objective"]
    assert warnings(log(kl=kl, reward=reward), 0.1) == {}
    assert warnings(log(kl=kl, reward=reward)) == {}  # a trainer with another objective
