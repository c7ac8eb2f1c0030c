"""Study folders by known laws, small or large: rewards are normal, a trained policy is the base policy moved by sqrt(2 KL)."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from bon.estimators import best_of_n_mean, win_rates
from bon.intervals import Interval, bootstrap_mean, seeds_mean
from bon.kl import best_of_n_kl_bound
from suite.metrics.rows import Row, write_rows
from suite.studies.pool_files import save_curves

#: kl_coef -> KL after training, in nats.
SWEPT = {0.02: 20.0, 0.05: 12.0, 0.1: 7.0, 0.2: 3.5, 0.5: 1.2}
#: The other methods and their KLs.
OTHERS = {"rloo": 9.0, "grpo": 5.0, "bon_sft": 1.6}
FLOPS, TRAINING_FLOPS, TOKENS = 2.4e8, 4.0e13, 24.0
#: Gold reward a unit of proxy, and what a unit of KL takes from it.
GOLD, LOSS = 0.6, 0.02


class Law:
    """The pools of one study; `loss` is gold reward lost per nat.

    Every prompt has a level of its own, so that prompts and not candidates decide the intervals.
    """

    def __init__(self, prompts=24, candidates=32, loss=LOSS, seed=0):
        self.rng = np.random.default_rng(seed)
        self.level = self.rng.normal(0, 0.5, (prompts, 1))
        self.prompts, self.loss = prompts, loss
        self.base = self.pool(candidates, 0.0)

    def pool(self, candidates, kl):
        """(proxy, gold) [P, N] of a policy at this KL."""
        shift = np.sqrt(2 * kl)
        proxy = self.level + shift + self.rng.normal(size=(self.prompts, candidates))
        gold = GOLD * proxy - self.loss * kl + 0.5 * self.rng.normal(size=proxy.shape)
        return proxy, gold


def columns(law, proxy, gold, kl, distinct=0.85):
    """metric, kind -> [P, N]: what the suite's evaluation would average."""
    n = np.arange(1, proxy.shape[1] + 1)
    ones = np.ones((law.prompts, 1))
    bound = ones * best_of_n_kl_bound(n)
    opponent = None if kl is None else law.base[1]
    return {
        ("proxy", None): best_of_n_mean(proxy),
        ("gold", None): best_of_n_mean(proxy, gold),
        ("win_rate", None): win_rates(proxy, list(n), opponent=opponent, values=gold),
        ("length", None): 23.9 + 0.02 * np.log(n) + 0.05 * law.level,
        ("perplexity", None): 60 * (1 - 0.02 * np.log(n)) + (kl or 0) + 5 * law.level,
        ("distinct_2", None): distinct - 0.01 * np.log(n) - 0.01 * (kl or 0) + 0.01 * law.level,
        ("tokens_per_request", None): TOKENS * n * ones + law.level,
        ("flops_per_request", None): FLOPS * n * ones,
        **({("kl", "bound"): bound, ("kl", "levels"): bound} if kl is None else {}),
        **({("kl", "bound"): bound + kl, ("kl", "rao_blackwell"): (kl + 0.1 * law.level)} if kl is not None else {}),
    }


def named(method, n):
    return method if n == 1 else ("best_of_n" if method == "base" else f"{method}+best_of_n")


def rows_of(interval, method, seed, step, key, setting):
    metric, kind = key
    return [
        Row(named(method, n), seed, step, n, metric, *map(float, parts), kind, setting)
        for n, parts in enumerate(zip(*interval, strict=True), 1)
    ]


def base_rows(law):
    proxy, gold = law.base
    rng = np.random.default_rng(1)
    for key, values in columns(law, proxy, gold, None).items():
        yield from rows_of(bootstrap_mean(values, rng, resamples=100), "base", 0, None, key, "")


def trained_rows(law, method, setting, kl, seeds, candidates=8, steps=(4, 8, 16), write=None):
    """Rows of each seed and over all seeds: checkpoints on the way to `kl`, then the final pool."""
    rng = np.random.default_rng(2)
    for step in steps:
        last = step == steps[-1]
        found = []
        for seed in range(seeds):
            its_kl = kl * (step / steps[-1]) * (1 + 0.1 * law.rng.normal())
            proxy, gold = law.pool(candidates if last else 2, its_kl)
            if last and write is not None:
                write(seed, proxy, gold)
            every = columns(law, proxy, gold, its_kl)
            path = (("proxy", None), ("gold", None), ("win_rate", None), ("length", None), ("kl", "rao_blackwell"))
            found.append(every if last else {key: every[key][:, :1] for key in path})
        for key in found[0]:
            each = np.stack([part[key] for part in found])
            for seed, values in enumerate(each):
                yield from rows_of(bootstrap_mean(values, rng, resamples=100), method, seed, step, key, setting)
            if seeds > 1:
                yield from rows_of(seeds_mean(each), method, None, step, key, setting)
    for seed in range(seeds):
        yield Row(method, seed, steps[-1], 1, "training_flops", TRAINING_FLOPS * (1 + 0.01 * seed), setting=setting)


def parts(value, low, high):
    return {name: str(end) if np.isinf(end) else end for name, end in (("value", value), ("low", low), ("high", high))}


def save_pool(folder, name, proxy, gold):
    """A pool as a study stores it, its rows in no order."""
    (folder / "candidates").mkdir(parents=True, exist_ok=True)
    prompts, candidates = proxy.shape
    table = {
        "prompt_id": np.repeat(np.arange(prompts), candidates),
        "candidate_id": np.tile(np.arange(candidates), prompts),
        "proxy": proxy.ravel().astype(np.float32),
        "gold": gold.ravel().astype(np.float32),
    }
    order = np.random.default_rng(3).permutation(proxy.size)
    parquet.write_table(pa.table({key: column[order] for key, column in table.items()}),
                        folder / "candidates" / f"{name}.parquet", compression="zstd")  # fmt: skip


def fit(form, alpha, beta, peak):
    values = {"alpha": parts(alpha, 0.9 * alpha, 1.1 * alpha), "beta": parts(beta, beta - 0.1, beta + 0.1)}
    return {"form": form, **values, "peak": parts(peak, 0.8 * peak, np.inf), "residual": 0.01, "largest_d": 2.0}


def decline(falls):
    change = parts(-0.3, -0.4, -0.2) if falls else parts(0.0, 0.0, 0.0)
    contrast = {"since_kl": 2.0, "proxy_change": parts(0.5, 0.4, 0.6), "gold_change": change}
    return {"declines": falls, "contrast": {**contrast, "gold_change_of_each_seed": [change["value"]] * 3}}


def points(differences):
    return [{"kl": kl, **parts(d, d - 0.1, d + 0.1)} for kl, d in differences.items()]


def compared(worth, requests, differences):
    return {
        "n": 8,
        "best_of_n_minus_method": {**parts(-0.5, -0.6, -0.4), "p_value": 0.001},
        "equivalent_n": parts(*worth),
        "break_even_requests": {**parts(*requests), "at_most": bool(np.isinf(worth[0]))},
        "best_of_n_minus_method_at_equal_kl": points(differences),
    }


def optimum_rows(betas=(0.1, 0.2, 0.3, 0.5, 1.0, 2.0)):
    """Of normal rewards the optimum gains 1 / beta at a KL of 1 / (2 beta^2): an objective of 1 / (2 beta).

    Best-of-n gains 90% of it; at the smallest price a pool knows less.
    """
    for beta in sorted({*betas, *SWEPT}):
        setting, gain = f"beta={beta:g}", 1 / beta
        values = {"objective": gain / 2, "effective_sample_size": 9.0}
        if beta >= 0.2:
            values |= {"proxy": gain, "gold": GOLD * gain - LOSS * gain**2 / 2}
            yield Row("optimum", None, None, 1, "kl", gain**2 / 2, 0.45 * gain**2, 0.55 * gain**2, "self_normalized", setting)
        for metric, value in values.items():
            yield Row("optimum", None, None, 1, metric, value, 0.97 * value, 1.03 * value, setting=setting)
        for place in (setting, *([""] if beta == 0.5 else [])):
            known = "" if beta >= 0.1 else "_at_most"
            yield Row("best_of_n", None, None, 4, "beta", beta, setting=place)
            yield Row("best_of_n", None, None, 4, f"share_of_optimum{known}", 0.9, 0.88, 0.92, setting=place)


def share_rows(method, setting, kl, beta, step):
    """A policy moved by sqrt(2 KL), at the price of `beta`."""
    objective = np.sqrt(2 * kl) - beta * kl
    share = 2 * beta * objective
    known = "" if beta >= 0.1 else "_at_most"
    yield Row(method, None, step, 1, "beta", beta, setting=setting)
    yield Row(method, None, step, 1, "objective", objective, objective - 0.1, objective + 0.1, setting=setting)
    yield Row(method, None, step, 1, f"share_of_optimum{known}", share, share - 0.04, share + 0.04, setting=setting)


def save_logs(folder, name, kl, seeds, updates=80):
    """The way of a training to its KL, its reward the square root of twice that."""
    for seed in range(seeds):
        way = kl * (1 - np.exp(-np.arange(1, updates + 1) / 20)) * (1 + 0.1 * seed)
        log = [
            {
                "update": u,
                "objective/scores": np.sqrt(2 * at),
                "objective/kl": at,
                "policy/entropy_avg": 4 - at / 10,
                "lr": 1e-4,
            }
            for u, at in enumerate(way, 1)
        ]
        save_curves(log, folder / "updates" / f"{name}-seed{seed}.parquet", {})


def frontier(folder: Path, prompts=24, candidates=32, seeds=3):
    """`results/frontier`: PPO over five kl_coefs, RLOO, GRPO and best-of-n SFT at one setting."""
    folder.mkdir(parents=True, exist_ok=True)
    law = Law(prompts, candidates)
    save_pool(folder, "base", *law.base)
    rows = list(base_rows(law))
    for kl_coef, kl in SWEPT.items():
        setting = f"kl_coef={kl_coef}"
        rows += trained_rows(law, "ppo", setting, kl, seeds,
                             write=lambda seed, *pool, s=setting: save_pool(folder, f"ppo-{s}-seed{seed}", *pool))  # fmt: skip
    for method, kl in OTHERS.items():
        rows += trained_rows(law, method, "", kl, seeds, steps=(16,))
    rows += optimum_rows()
    rows += [row for kl_coef, kl in SWEPT.items() for row in share_rows("ppo", f"kl_coef={kl_coef}", kl, kl_coef, 16)]
    rows += [row for method, kl in OTHERS.items() for row in share_rows(method, "", kl, 0.3, 16)]
    for kl_coef, kl in SWEPT.items():
        save_logs(folder, f"ppo-kl_coef={kl_coef}", kl, seeds)
    save_logs(folder, "grpo", 5.0, seeds)
    write_rows(rows, folder / "metrics.csv")
    findings = {
        "best_of_n_minus_optimum_at_equal_kl": points({0.5: -0.02, 1.0: -0.05, 2.0: -0.1}),
        "compared": {
            "ppo kl_coef=0.02": compared((np.inf,) * 3, (9000.0, 8000.0, 10000.0), {}),
            "ppo kl_coef=0.1": compared((20.0, 12.0, 28.0), (41000.0, 35000.0, 60000.0), {}),
            "bon_sft": compared((4.0, 3.0, 5.0), (52000.0, 50000.0, 60000.0), {0.5: 0.1, 1.0: -0.2}),
        },
        "equal_kl": {"ppo": points({0.5: 0.3, 1.0: 0.2, 2.0: -0.1})},
        "overoptimisation": {"best_of_n": {"fit": fit("d (alpha - beta d)", 0.85, 0.02, 21.0), **decline(False)}},
    }
    (folder / "findings.json").write_text(json.dumps(findings), encoding="utf-8")
    return folder


def weak_proxy(folder: Path, prompts=24, candidates=32, seeds=2):
    """`results/weak_proxy`: gold = 0.6 sqrt(2 KL) - 0.3 KL for PPO, which turns over at d = 1.41 (nats ** 0.5)."""
    folder.mkdir(parents=True, exist_ok=True)
    law = Law(prompts, candidates, loss=0.3)
    rows = [*base_rows(law), *trained_rows(law, "ppo", "", 10.0, seeds, steps=(1, 2, 4, 8, 16))]
    write_rows(rows, folder / "metrics.csv")
    found = {
        "best_of_n": {"fit": fit("d (alpha - beta d)", 0.85, 0.02, 21.0), **decline(False)},
        "ppo": {"fit": fit("d (alpha - beta log d)", 0.7, 0.9, np.exp(0.7 / 0.9 - 1)), **decline(True)},
    }
    (folder / "findings.json").write_text(json.dumps({"overoptimisation": found}), encoding="utf-8")
    return folder


def notebook(folder: Path, prompts=128):
    """`results/notebook`: the winning label's score, |proxy|, knows nothing of gold."""
    folder.mkdir(parents=True, exist_ok=True)
    law = Law(prompts, 8)
    proxy, gold = law.base
    tuned = law.pool(8, 3.0)
    rows = []
    for method, step, n, setting, score, judge in (
        ("base", None, 1, f"num_prompts={prompts}", proxy, gold),
        ("best_of_n", None, 4, f"num_prompts={prompts}", proxy, gold),
        ("best_of_n", None, 4, f"num_prompts={prompts} label=winning", np.abs(proxy), gold),
        ("ppo", 16, 1, f"num_prompts={prompts}", *tuned),
    ):
        found = bootstrap_mean(best_of_n_mean(score, judge)[:, n - 1], np.random.default_rng(4), resamples=100)
        rows.append(Row(method, 0, step, n, "gold", *map(float, Interval(*found)), setting=setting))
    write_rows(rows, folder / "metrics.csv")
    counts = [16 * 2**k for k in range(8) if 16 * 2**k < prompts] + [prompts]
    detection = [
        {
            "comparison": f"best_of_n - {name}",
            "truth": {**parts(truth, truth - 0.05, truth + 0.05), "p_value": 0.001},
            "by_prompts": [
                {"num_prompts": c, "right_sign": 1.0, "significant_right": (c / prompts) ** power, "significant_wrong": 0.0}
                for c in counts
            ],
        }
        for name, truth, power in (("base", 0.6, 0.5), ("ppo kl_coef=0.2", -0.8, 0.25))
    ]
    findings = {"n": 4, "protocol_prompts": 16, "detection": detection}
    (folder / "findings.json").write_text(json.dumps(findings), encoding="utf-8")
    return folder
