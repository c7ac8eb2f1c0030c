"""Say in sentences what was found, what limits it, and how fast it is; long for the documentation, short for the README."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from suite.figures.studies import loaded
from suite.metrics.naming import called, title
from suite.metrics.results import Results, command
from suite.metrics.rows import Row, select
from suite.metrics.series import MEASURED, level, middle, over_n, settings, tuned_methods
from suite.metrics.statements import differences, pairs, pays_off, times
from suite.metrics.text import number, parts, seeds_of_methods
from suite.metrics.training_budget import ENOUGH, FEWEST, training_budget

#: The n that sentences speak of.
N = 8
PRECISIONS = {"fp32": "single precision", "bf16": "bfloat16"}


def budget_statement(results: Results) -> list[str]:
    """Return what the training budget of a study forbids to conclude, as a paragraph; none where it is large enough."""
    budget = training_budget(results.folder) if results.folder else None
    if budget is None or budget.responses >= ENOUGH:
        return []
    name = title(budget.method)
    drawn = f"{name} drew {budget.responses:,} responses per training ({budget.updates} updates of {budget.batch_size})"
    if budget.responses < FEWEST:
        return [f"Not a comparison. {drawn}: too few to say anything of {name}, so this page leaves the trained policies out."]
    return [
        f"Not a verdict. {drawn}; with {ENOUGH:,}, at a lower learning rate, it gains far more reward for its KL. These "
        f"policies are under-trained: the numbers of {name} are a lower bound of what {name} can do, and the comparisons with "
        "it at equal KL, of equal reward and of cost are expected to change. A training of that size has been measured about "
        "level with best-of-n in gold reward at equal KL."
    ]


def findings(results: Results) -> list[str]:
    """Return what was found, a sentence or two on each: reward, equal KL, cost."""
    told = [_reward(results)]
    for method in tuned_methods(results.rows)[:1]:
        setting = middle(settings(results.rows, method))
        told += _at_every_kl(results, method)
        told.append(
            " ".join(["Cost.", *pays_off(results, method, setting), _diversity(results.rows, method, setting)]).strip()
        )
    return told


def in_short(results: Results) -> list[str]:
    """Return the same in at most three sentences with few numbers."""
    told = [_reward(results)]
    for method in tuned_methods(results.rows)[:1]:
        setting = middle(settings(results.rows, method))
        told += _at_one_kl(results, method)
        told += [f"Cost. {' '.join(pays_off(results, method, setting))}"] if pays_off(results, method, setting) else []
    return told


def limits(results: Results) -> str:
    """Return what limits the findings."""
    most = max(results.seeds.values(), default=0)
    seeds = (
        "one training seed says nothing of the spread between seeds"
        if most < 2
        else f"with so few training seeds ({seeds_of_methods(results)}) the intervals assume that seeds spread alike"
    )
    base = results.pool("base")
    prompts = f"there are {len(base.scores['gold'])} prompts, " if base is not None else ""
    rewards = "the rewards err (held-out accuracies in `experiments/models/tiny/README.md`)"
    return f"What limits this: the models are small, {prompts}{rewards}, and {seeds}."


def speed_sentence(folder: Path) -> str:
    """Return the benchmark at n = 8: every way of sampling, every rival, and updates of PPO.

    Raises:
        UserError: there is no benchmark.
    """
    speeds = loaded("benchmark", folder)
    rates: dict[str, list[str]] = {}
    for ours, rival in pairs(speeds, True):
        if ours.n == N:
            way, _, precision = ours.contender.partition(", ")
            name = f"{PRECISIONS[precision]}{way.removeprefix('bon')} ({ours.share:.0%} of what matrix products allow)"
            rates.setdefault(name, []).append(f"{times(ours, rival)} times the rate of {rival.contender.rpartition(', ')[0]}")
    told = [f"in {name} at {' and '.join(each)}" for name, each in rates.items()]
    updates = [f"{times(*pair)} times with {pair[0].contender.partition(', ')[2]}" for pair in pairs(speeds, False)]
    ppo = f" PPO updates run at a multiple of stock TRL's rate: {'; '.join(updates)}." if updates else ""
    return f"At n = {N} the sampler runs {'; '.join(told)}.{ppo} ({command('benchmark')}, `results/benchmark/speed.md`)"


def speed_in_short(folder: Path) -> str:
    """Return the benchmark at n = 8 of the plain sampler in single precision, against each rival.

    Raises:
        UserError: there is no benchmark.
    """
    found = [
        f"{times(ours, rival)} times as fast as {rival.contender.rpartition(', ')[0]}"
        for ours, rival in pairs(loaded("benchmark", folder), True)
        if (ours.n, ours.contender) == (N, "bon, fp32")
    ]
    return f"At n = {N}, on two CPU cores in single precision, the sampler is {_listed(found)}."


def _reward(results: Results) -> str:
    rows, base = results.rows, select(results.rows, method="base", n=1)
    most = int(over_n(rows, "best_of_n", "gold").at.max())
    pool = results.pool("base")
    prompts = f"On {len(pool.scores['gold'])} evaluation prompts " if pool is not None else ""
    best = " and to ".join(
        f"{number(_best(rows, n, 'gold'))} (best-of-{n}, at most {number(_best(rows, n, 'kl', 'bound'))} nats)"
        for n in dict.fromkeys(n for n in (N, most) if n <= most)
    )
    start = number(next(row for row in base if row.metric == "gold"))
    told = f"Reward. {prompts}best-of-n lifts mean gold reward from {start} to {best}"
    for method in tuned_methods(rows)[:1]:
        setting = middle(settings(rows, method))
        gold, kl = level(rows, method, "gold", setting), level(rows, method, "kl", setting, MEASURED)
        if gold and kl:
            seeds = results.seeds.get(method, 1)
            told += f"; {called(method, setting)}, {seeds} training seeds, to {number(gold)} at {number(kl)} nats"
    return f"{told}."


def _at_every_kl(results: Results, method: str) -> list[str]:
    told = []
    for (found, name), points in differences(results).items():
        if found == method:
            each = ", ".join(f"{parts(point)} at {point['kl']:g} nats" for point in points)
            told.append(
                f"Equal KL. Paired by prompt, best-of-n, at its upper bound of KL, minus {name} is {each} in gold reward "
                "(pointwise, in the square root of KL between measured policies; the other methods: figure `equal_kl`)."
            )
    return told


def _at_one_kl(results: Results, method: str) -> list[str]:
    for (found, name), points in differences(results).items():
        if found == method and points:
            point = points[len(points) // 2]
            return [
                f"Equal KL. At {point['kl']:g} nats best-of-n minus {name} is {parts(point)} in gold reward, paired by prompt."
            ]
    return []


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _best(rows: Any, n: int, metric: str, kl_kind: str | None = None) -> Row:
    return select(rows, method="best_of_n", n=n, metric=metric, kl_kind=kl_kind)[0]


def _diversity(rows: Any, method: str, setting: str) -> str:
    tuned, base = level(rows, method, "distinct_2", setting), level(rows, "base", "distinct_2")
    if tuned is None or base is None:
        return ""
    return f"Its responses have a distinct-2 of {number(tuned)}, those of the {title('base')} {number(base)}."
