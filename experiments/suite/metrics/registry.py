"""Every metric of rows and of tracking, a line each: what it means, its unit, its axis, its title in figures, its digits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """Meaning of a metric's name, and how its values are written.

    Attributes:
        meaning: what it measures.
        unit: of its values.
        axis: what it is tracked against: `n`, `update`, or "" for what there is once.
        title: what an axis of a figure is called; "" where no figure shows it.
        digits: decimal places in text and tables.
    """

    meaning: str
    unit: str
    axis: str = ""
    title: str = ""
    digits: int = 2


#: Measured on the evaluation prompts. A KL has the name of its kind: `kl_bound` for the rows of `kl` and `bound`.
MEASURES = {
    "proxy": Metric("proxy reward, which selects and trains", "logit", title="proxy reward (logit)"),
    "gold": Metric("gold reward, which only evaluates", "logit", title="gold reward (logit)"),
    "win_rate": Metric(
        "gold win rate against one response of the base policy, ties half", "share", title="win rate against base policy"
    ),
    "kl_bound": Metric("KL to the base policy, upper bound of best-of-n", "nats"),
    "kl_beirami": Metric("KL to the base policy, estimate of Beirami et al.", "nats"),
    "kl_levels": Metric("KL to the base policy, exact on the pool's score levels", "nats"),
    "kl_monte_carlo": Metric("KL to the base policy, mean log ratio", "nats"),
    "kl_rao_blackwell": Metric("KL to the base policy, sum of the tokens' KLs", "nats"),
    "length": Metric("tokens of a response", "tokens", title="length (tokens)", digits=1),
    "perplexity": Metric(
        "perplexity of a response under the base policy", "1", title="perplexity under base policy", digits=0
    ),
    "distinct_1": Metric("distinct tokens over all tokens", "share"),
    "distinct_2": Metric("distinct pairs of tokens over all pairs", "share", title="distinct-2"),
    "distinct_3": Metric("distinct triples of tokens over all triples", "share"),
    "self_similarity": Metric("similarity of two responses to one prompt", "share"),
}
#: What a method gains at a price of KL, over the base policy, once: at its own price or at that where its share is greatest.
OBJECTIVES = {
    "beta": Metric("price of a nat at which the objective is taken", "logit per nat"),
    "objective": Metric("proxy reward gained less price x KL", "logit"),
    "share_of_optimum": Metric("objective by the most that any policy can gain at this price", "share"),
    "share_of_optimum_at_most": Metric("the same where the pool knows the optimum from below alone", "share"),
    "share_of_optimum_at_least": Metric("the same of a policy that loses", "share"),
}
#: Of the method `optimum`, for each price: its rows have the setting `beta=...`.
OPTIMUM = {
    "kl_self_normalized": Metric("KL of the optimum to the base policy, from self-normalized weights", "nats"),
    "objective_at_least": Metric("what the optimum gains at least, where the pool is too small for this price", "logit"),
    "effective_sample_size": Metric("about how many candidates of a prompt carry the weight", "candidates"),
}
#: What a request costs (against n), and what training has cost so far (against the update).
COSTS = {
    "tokens_per_request": Metric("tokens drawn to answer a request", "tokens", "n", digits=0),
    "reward_tokens_per_request": Metric("tokens that the proxy reads to answer a request", "tokens", "n", digits=0),
    "flops_per_request": Metric("model FLOPs to answer a request", "FLOP", "n"),
    "seconds_per_request": Metric("time to answer a request", "s", "n"),
    "training_tokens": Metric("response tokens drawn in training so far", "tokens", "update"),
    "training_reward_tokens": Metric("tokens that the proxy has read in training so far", "tokens", "update"),
    "training_flops": Metric("model FLOPs of training so far", "FLOP", "update"),
    "training_seconds": Metric("time spent in training so far", "s", "update"),
    "equivalent_n": Metric("the n whose best-of-n has the tuned policy's gold reward; absent beyond the pool", "1"),
    "equal_flops_difference": Metric("gold reward of best-of-n minus the tuned policy at equal FLOPs a request", "logit"),
    "break_even_requests": Metric("requests after which training has paid for itself; absent if never", "requests"),
}


def digits_of(metric: str) -> int:
    """Return the decimal places of a metric in text and tables; 2 for one that is not here."""
    known = MEASURES.get(metric) or COSTS.get(metric)
    return known.digits if known else 2
