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
# # One pool, every n
#
# How good is best-of-n for n = 1, 2, 4, ...? Nothing has to be drawn for each n. One pool of N candidates a prompt holds the
# answer for every n up to N, if it is read with the right estimator. This notebook reads a pool of the repository's results in
# three ways and measures how wrong each is.

# %%
import warnings
from pathlib import Path

warnings.filterwarnings("ignore", "IProgress")  # progress bars need no widgets here
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown
from tabulate import tabulate

from bon import Candidates
from bon.estimators import best_of_n_mean, best_of_n_variance
from bon.intervals import bootstrap_mean

root = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "results").is_dir())
pool = Candidates.load(root / "results" / "headline" / "candidates.parquet")
proxy, gold = pool.scores["proxy"], pool.scores["gold"]
num_prompts, num_candidates = proxy.shape
Markdown(f"{num_prompts} prompts with {num_candidates} candidates each; proxy selects, gold only evaluates.")

# %% [markdown]
# ## The curve
#
# The best of a random n-subset of the pool is the i-th smallest score with probability C(i-1, n-1) / C(N, n). The mean over
# all n-subsets is a weighted sum of the sorted scores: exact, no sampling, unbiased for every n (Nakano et al. 2021; Gao et
# al. 2022). For gold the candidates are sorted by proxy, since proxy selects. Intervals are over prompts.

# %%
ns = 2 ** np.arange(int(np.log2(num_candidates)) + 1)
curves = {
    "proxy": bootstrap_mean(best_of_n_mean(proxy), np.random.default_rng(0)),
    "gold": bootstrap_mean(best_of_n_mean(proxy, gold), np.random.default_rng(0)),
}


def interval(curve, n):
    return f"{curve.value[n - 1]:.2f} [{curve.low[n - 1]:.2f}, {curve.high[n - 1]:.2f}]"


rows = [[n, *(interval(curve, n) for curve in curves.values())] for n in ns]
print(tabulate(rows, ["n", "proxy reward", "gold reward"], disable_numparse=True))

# %%
figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
every_n = np.arange(1, num_candidates + 1)
for (name, curve), style in zip(curves.items(), ("-", "--"), strict=True):
    axes.plot(every_n, curve.value, style, label=name)
    axes.fill_between(every_n, curve.low, curve.high, alpha=0.2)
axes.set_xscale("log", base=2)
axes.set_xticks(ns, ns)
axes.set(xlabel="n", ylabel="reward (logit)")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Three estimators
#
# Two others are in use. **First n**: the best of the first n candidates; unbiased, but it throws the rest of the pool away.
# **Bootstrap with replacement**: the best of n draws from the pool; candidates repeat, so it is the best of fewer than n.
#
# To see how wrong each is, the pool is cut into independent pools of 16. Each estimator reads each of them. Their scatter
# within a prompt is its variance; their mean, less what the whole pool says, is its bias.

# %%
N = 16
small = proxy.reshape(num_prompts, num_candidates // N, N)
flat = small.reshape(-1, N)
i, n = np.arange(1, N + 1), np.arange(1, N + 1)[:, None]
repeated = (i / N) ** n - ((i - 1) / N) ** n  # the i-th smallest of N is the best of n draws with replacement
estimates = {
    "all subsets": best_of_n_mean(flat).reshape(small.shape),
    "first n": np.maximum.accumulate(small, axis=2),
    "with replacement": (np.sort(flat, axis=1) @ repeated.T).reshape(small.shape),
}
truth = best_of_n_mean(proxy)[:, :N]  # unbiased, from four times as many candidates
shown = np.array([1, 2, 4, 8, 16])
bias = {name: bootstrap_mean(each.mean(1) - truth, np.random.default_rng(0)) for name, each in estimates.items()}
rows = [[k, *(interval(each, k) for each in bias.values())] for k in shown]
print("bias of the mean reward [95% interval]\n")
print(tabulate(rows, ["n", *bias], disable_numparse=True))

# %% [markdown]
# All subsets and first n are unbiased: what is left is chance. The bootstrap with replacement is not. It is too low as soon as
# n exceeds 1, and the more so the nearer n is to N.

# %%
low = bias["with replacement"]
reads_like = np.interp(truth.mean(0)[-1] + low.value[-1], truth.mean(0), np.arange(1, N + 1))
Markdown(
    f"At n = N = {N} its error is **{low.value[-1]:.2f}** [{low.low[-1]:.2f}, {low.high[-1]:.2f}]: what it calls "
    f"best-of-{N} is worth best-of-{reads_like:.1f}."
)

# %% [markdown]
# ## Variance
#
# The variance of one prompt's estimate over the draw of its candidates, averaged over prompts. The last column is what
# `best_of_n_variance` says from a single pool, without any other pool to compare with (there is no unbiased estimate for n
# above N / 2). It agrees with what was measured.

# %%
variance = {name: each.var(axis=1, ddof=1).mean(0) for name, each in estimates.items()}
predicted = np.nanmean(best_of_n_variance(flat)[:, : N // 2], axis=0)
rows = [[k, *(each[k - 1] for each in variance.values()), predicted[k - 1] if k <= N // 2 else None] for k in shown]
print(tabulate(rows, ["n", *variance, "predicted, all subsets"], floatfmt=".2f", missingval="-"))

# %%
figure, panels = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
for name, style in zip(estimates, ("-", "--", ":"), strict=True):
    panels[0].plot(i, variance[name], style, label=name)
    panels[1].plot(i, bias[name].value, style, label=name)
    panels[1].fill_between(i, bias[name].low, bias[name].high, alpha=0.2)
panels[0].set(xlabel="n", ylabel="variance within a prompt")
panels[1].set(xlabel="n", ylabel="bias")
panels[0].set_ylim(bottom=0)
for panel in panels:
    panel.set_xticks(shown)
panels[0].legend(frameon=False)
plt.show()

# %% [markdown]
# The variance with replacement is lower near n = N, and no help: the estimate is precise about the wrong number.

# %%
ratio = variance["first n"] / variance["all subsets"]
widths = {}
for name, each in estimates.items():
    found = bootstrap_mean(each[:, 0], np.random.default_rng(0))  # of one small pool, as a study would have it
    widths[name] = (found.high - found.low)[3]
Markdown(
    f"At n = 4 first n has **{ratio[3]:.1f} times** the variance of all subsets within a prompt, at n = 1 "
    f"{ratio[0]:.0f} times, at n = N exactly {ratio[-1]:.0f}: there both are the maximum of the pool. The interval of the "
    f"mean over {num_prompts} prompts shrinks less, since prompts differ among themselves: at n = 4 its width is "
    f"{widths['first n']:.2f} with first n and {widths['all subsets']:.2f} with all subsets. Equal intervals would take "
    f"about **{(widths['first n'] / widths['all subsets']) ** 2:.1f} times** as many prompts with first n."
)

# %% [markdown]
# ## What to remember
#
# - Draw one pool, read every n from it with `best_of_n_mean`.
# - Near n = N the estimate leans on few candidates. Draw more than the largest n that matters.
# - Resample prompts, never candidates with replacement.
