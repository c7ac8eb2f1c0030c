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
# # Quickstart: best-of-n sampling
#
# Draw n responses to a query, score them, keep the best. No training is needed, only a policy and a reward. Everything here
# runs on a CPU in seconds, with the small film-review models of this repository.
#
# Needs `pip install -e ".[suite]"` and Jupyter.

# %%
import warnings
from pathlib import Path

warnings.filterwarnings("ignore", "IProgress")  # progress bars need no widgets here
import numpy as np
import torch
from IPython.display import HTML, Markdown
from tabulate import tabulate
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from bon import BestOfNSampler, ClassifierReward, LengthSampler

disable_progress_bar()
root = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "experiments" / "models").is_dir())
models = root / "experiments" / "models" / "tiny"
policy = AutoModelForCausalLM.from_pretrained(models / "policy", dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(models / "policy")
f"{policy.num_parameters() / 1e6:.1f} million parameters"

# %% [markdown]
# ## The reward
#
# A reward is a function from texts to numbers. A sentiment reward must name its label. The score of whichever class wins,
# which TRL's example took, is as high for a text that is surely negative as for one that is surely positive.

# %%
classifier = AutoModelForSequenceClassification.from_pretrained(models / "proxy", dtype=torch.float32)
reward = ClassifierReward(classifier, tokenizer, label="POSITIVE")
texts = ["This film is a wonderful, moving masterpiece.", "I saw this film.", "This film is an awful, boring waste of time."]
logits = np.array(reward(texts))
winning_class = 1 / (1 + np.exp(-np.abs(logits)))  # the probability of the class that wins
print(tabulate(zip(texts, logits, winning_class, strict=True), ["text", "POSITIVE logit", "winning class"], floatfmt=".2f"))

# %% [markdown]
# ## Sample and select
#
# `BestOfNSampler` takes the arguments of `trl.extras.BestOfNSampler`. `generate` returns the best text of every query.

# %%
openings = (
    "This movie|The film|I watched this|The acting is|The story|My wife and I|I expected|As a fan of|The director|"
    "This is one of|When I first saw|The plot|In this film|There are|Every scene|It starts|The characters|I have never|"
    "The ending|You will|Some people|The music|If you like|What can I say"
)
queries = openings.split("|")
query_tensors = [torch.tensor(tokenizer(query)["input_ids"]) for query in queries]
sampler = BestOfNSampler(policy, tokenizer, reward, length_sampler=LengthSampler(16, 25, seed=0), sample_size=4, seed=0)
for (best,) in sampler.generate(query_tensors)[:3]:
    print(best)

# %% [markdown]
# ## Keep what was drawn
#
# `sample` returns every candidate with its score. The first candidate is what the policy alone would have said; the best of
# four comes from the same draws.

# %%
pool = sampler.sample(query_tensors)
scores = pool.scores["proxy"]  # [queries, candidates]
best = scores.argmax(1)
rows = [
    [query, pool.texts[q, 0], f"{scores[q, 0]:.2f}", pool.texts[q, best[q]], f"{scores[q, best[q]]:.2f}"]
    for q, query in enumerate(queries[:8])
]
HTML(tabulate(rows, ["query", "response", "score", "best-of-4 response", "score"], tablefmt="html", disable_numparse=True))

# %% [markdown]
# ## Is it better?
#
# Both answers to a query are compared with each other, and queries are the sampling unit. Best-of-4 cannot have the lower
# *proxy* score, because it was selected by it. So this says how much there is to gain, not that the text is better: for that
# a judge is needed that did not select.

# %%
from bon.intervals import paired_difference

gain = paired_difference(scores.max(1), scores[:, 0], np.random.default_rng(0))
Markdown(
    f"Best-of-4 scores **{gain.value:.2f}** above the first response, 95% interval {gain.low:.2f} to {gain.high:.2f}, "
    f"over {pool.num_prompts} queries."
)

# %% [markdown]
# ## More candidates
#
# A pool grows: the candidates that are there stay, only new ones are drawn. From one pool of N candidates comes the expected
# score of best-of-n for every n up to N, and with it the most that the policy has moved, in KL.

# %%
from bon.estimators import best_of_n_mean
from bon.intervals import bootstrap_mean
from bon.kl import best_of_n_kl_bound

pool = sampler.grow(pool, 16)
curve = bootstrap_mean(best_of_n_mean(pool.scores["proxy"]), np.random.default_rng(0))
ns = np.array([1, 2, 4, 8, 16])
columns = [ns, *(part[ns - 1] for part in curve), best_of_n_kl_bound(ns)]
headers = ["n", "score", "low", "high", "KL at most (nats)"]
print(tabulate(zip(*columns, strict=True), headers, floatfmt=".2f"))

# %% [markdown]
# ## Other ways to select
#
# Rules read the same pool; nothing is drawn again. Soft best-of-n takes a candidate with probability proportional to
# exp(score / temperature), from hard best-of-n when cold to plain sampling when hot.

# %%
from bon.selection import SoftBestOfN

temperatures = [0.1, 0.5, 1.0, 2.0, 10.0]
means = [SoftBestOfN(temperature=t).mean(pool).mean() for t in temperatures]
print(tabulate(zip(temperatures, means, strict=True), ["temperature", "mean score"], floatfmt=".2f"))

# %% [markdown]
# Next: why every n comes from one pool (`02_reward_vs_n.ipynb`), and when to train with PPO instead (`03_bon_or_ppo.ipynb`).
