# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Best-of-n or PPO?
#
# Two ways to spend compute on better text. Best-of-n draws n responses a request and keeps the best: it costs at every
# request. PPO fine-tunes the policy: it costs once. This notebook reads the committed results, computes nothing that takes
# long, and says what they show and what they do not.
#
# The PPO policies of the committed study are under-trained; `docs/results/findings.md` says on how many responses. Their
# numbers are a lower bound of what PPO can do: read the comparisons below for how they are made, not as a verdict.

# %%
import csv
import json
import warnings
from pathlib import Path

warnings.filterwarnings("ignore", "IProgress")  # progress bars need no widgets here
import numpy as np
from IPython.display import Image, Markdown
from pyarrow import parquet
from tabulate import tabulate

from bon.estimators import best_of_n_mean
from bon.intervals import paired_difference

root = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "results").is_dir())
# The sweep over KL coefficients and training seeds where it is there, else the single run.
folder = next(found for name in ("frontier", "headline") if (found := root / "results" / name).is_dir())
findings = json.loads((folder / "findings.json").read_text())["compared"]
with (folder / "metrics.csv").open() as file:
    rows = list(csv.DictReader(file))
titles = {"base": "base policy", "ppo": "PPO", "rloo": "RLOO", "grpo": "GRPO", "bon_sft": "best-of-n SFT"}


def title(method, setting=""):
    return f"{titles.get(method, method)} {setting}".strip()


def compared(key):
    """Method and setting of a key of the findings: `ppo`, or `ppo kl_coef=0.1`."""
    method, _, setting = key.partition(" ")
    return method, setting


sizes = [int(row["n"]) for row in rows if row["method"] == "best_of_n" and row["metric"] == "gold"]
Markdown(f"Read from `results/{folder.name}/`: best-of-n up to n = {max(sizes)} against {', '.join(map(title, findings))}.")

# %% [markdown]
# ## Who is better?
#
# Proxy is the reward that selects and trains; gold is another judge, which only evaluates. All numbers are means over the
# same prompts with 95% intervals. KL says how far a method has moved from the base policy: for best-of-n an upper bound, for
# a trained policy measured.


# %%
def number(method, metric, n=1, setting="", kl_kind=""):
    """A number with its interval: over all training seeds where there are several, after the last update."""
    found = [
        row
        for row in rows
        if (row["method"], row["metric"], int(row["n"]), row.get("setting") or "", row["kl_kind"])
        == (method, metric, n, setting, kl_kind)
    ]
    if not found:
        return ""
    over_seeds = [row for row in found if not row["seed"]] or found
    row = max(over_seeds, key=lambda row: int(row["step"] or 0))
    value, low, high = (row[part] and f"{float(row[part]):.2f}" for part in ("value", "ci_low", "ci_high"))
    return f"{value} [{low}, {high}]" if low != high else value


metrics = ["proxy", "gold", "win_rate", "distinct_2"]
table = [["base policy", *(number("base", metric) for metric in metrics), "0"]]
for n in [2**k for k in range(1, 20) if 2**k <= max(sizes)]:
    bound = f"at most {number('best_of_n', 'kl', n, kl_kind='bound')}"
    table.append([f"best-of-{n}", *(number("best_of_n", metric, n) for metric in metrics), bound])
for method, setting in map(compared, findings):
    measured = number(method, "kl", 1, setting, "rao_blackwell")
    table.append([title(method, setting), *(number(method, metric, 1, setting) for metric in metrics), measured])
    n, both = findings[f"{method} {setting}".strip()]["n"], f"{method}+best_of_n"
    bound = f"at most {number(both, 'kl', n, setting, 'bound')}"
    table.append([f"{title(method, setting)} + best-of-{n}", *(number(both, metric, n, setting) for metric in metrics), bound])
print(tabulate(table, ["method", "proxy", "gold", "win rate", "distinct-2", "KL (nats)"], disable_numparse=True))

# %%
Image(folder / "figures" / "reward_vs_n.png", width=800)

# %%
said = []
for key, found in findings.items():
    name, difference, worth = title(*compared(key)), found["best_of_n_minus_method"], found["equivalent_n"]
    value, low, high = (difference[part] for part in ("value", "low", "high"))
    verdict = f"{name} is better" if high < 0 else f"best-of-{found['n']} is better" if low > 0 else "no clear difference"
    much = (
        f"more than best-of-{max(sizes)}, the most that was drawn"
        if worth["value"] == "inf"
        else f"best-of-{float(worth['value']):.3g} (95% interval {float(worth['low']):.3g} to {float(worth['high']):.3g})"
    )
    said.append(
        f"- Best-of-{found['n']} minus {name}: **{value:+.2f}** [{low:+.2f}, {high:+.2f}] in gold reward: {verdict}. "
        f"{name} is worth {much}."
    )
Markdown("\n".join(said))

# %% [markdown]
# ## That number again, from the responses
#
# The difference is taken prompt by prompt and then averaged. It can be had again from the scores of all candidates in a few
# lines. The interval here is over prompts alone; with several training seeds, that of the study is wider, as it should be.


# %%
def scores(path, name):
    """A column of a pool as [prompts, candidates]."""
    read = parquet.read_table(path, columns=["prompt_id", "candidate_id", name])
    order = np.lexsort((read["candidate_id"].to_numpy(), read["prompt_id"].to_numpy()))
    return read[name].to_numpy()[order].reshape(len(np.unique(read["prompt_id"])), -1).astype(float)


(key, found), *_ = findings.items()
method, setting = compared(key)
is_run = (folder / "candidates.parquet").is_file()
base = folder / ("candidates.parquet" if is_run else "candidates/base.parquet")
pattern = f"candidates_{method}.parquet" if is_run else f"candidates/{method}-{setting}-seed*.parquet"
tuned = np.concatenate([scores(path, "gold") for path in sorted(folder.glob(pattern))], axis=1)
best = best_of_n_mean(scores(base, "proxy"), scores(base, "gold"))[:, found["n"] - 1]
again = paired_difference(best, tuned.mean(1), np.random.default_rng(0))
agrees = abs(again.value - found["best_of_n_minus_method"]["value"]) < 0.001
Markdown(
    f"Best-of-{found['n']} minus {title(method, setting)}: **{again.value:+.2f}** [{again.low:+.2f}, {again.high:+.2f}] over "
    f"{len(best)} prompts, which {'is' if agrees else 'is NOT'} what the results say."
)

# %% [markdown]
# ## At equal KL
#
# A higher reward may only mean that a method went further from the base policy. At equal KL the question is who made more of
# it. Best-of-n stands at its upper bound, which can only make it look worse than it is.

# %%
Image(folder / "figures" / "reward_vs_kl.png", width=800)

# %%
table = [
    [title(*compared(key)), f"{at['kl']:g}", f"{at['value']:+.2f} [{at['low']:+.2f}, {at['high']:+.2f}]"]
    for key, found in findings.items()
    for at in found["best_of_n_minus_method_at_equal_kl"]
]
print(tabulate(table, ["against", "at KL (nats)", "best-of-n minus it, gold"], disable_numparse=True))

# %% [markdown]
# ## What it costs
#
# Best-of-n pays n times at every request, training pays once. After some number of requests training has cost less than
# best-of-n of equal gold reward. "At most" stands where no n that was drawn is as good: the truth is sooner.

# %%
Image(folder / "figures" / "cost.png", width=800)

# %%
said = []
for key, found in findings.items():
    even = found["break_even_requests"]
    after = "never" if even["value"] == "inf" else f"after {'at most ' * even['at_most']}{float(even['value']):,.0f} requests"
    said.append(f"- {title(*compared(key))} pays off **{after}**, counted in model FLOPs.")
Markdown("\n".join(said))

# %% [markdown]
# ## Which one, then?
#
# - Few requests, or a base policy that must stay as it is: best-of-n. It needs no training, and its KL is known beforehand.
# - A small distance to the base policy matters: compare at equal KL, not at equal n.
# - Many requests, and KL is no concern: training. Look at distinct-2 as well, which falls when responses repeat themselves.
# - Both together: best-of-n of a trained policy is a row of the table above.
#
# What limits this: small models, judges that err, one task. A single training seed says nothing of the spread between seeds.
