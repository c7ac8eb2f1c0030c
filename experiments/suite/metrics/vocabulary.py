"""Names of columns and of what is spent, as pools, rows and logs share them."""

from __future__ import annotations

#: What a training is charged for, in its log and in `Training`.
SPENT = ("tokens", "reward_tokens", "flops", "seconds")

#: Column of a pool: tokens of prompt and response as the proxy counts them, a number a candidate.
PROXY_TOKENS = "proxy_tokens"

#: Columns of the KL to the base policy, a number a candidate.
MONTE_CARLO, RAO_BLACKWELL = "kl_monte_carlo", "kl_rao_blackwell"
#: Column of the log-probability under the base policy as it is, where sampling warps it; elsewhere `ref_logprobs` is the same.
BASE_LOGPROB = "base_logprob"

#: Ends of the names of policies that a training gives beside its own: along the line from the base policy's weights, averaged.
LINE, EMA = "_line", "_ema"
CHANGED = (LINE, EMA)
