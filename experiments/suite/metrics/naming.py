"""Names of methods, settings and metrics: in rows, tables, legends and on axes."""

from __future__ import annotations

from suite.metrics.methods import style_of
from suite.metrics.registry import MEASURES
from suite.metrics.vocabulary import EMA, LINE

#: What rows call a share of the optimum: known, at most, or (of a method that loses) at least.
BOUNDED_SHARE = {None: "share_of_optimum", "upper": "share_of_optimum_at_most", "lower": "share_of_optimum_at_least"}
#: What is added to the title of a training for the policies that it gives beside its own.
_CHANGED = {LINE: "line of weights", EMA: "averaged weights"}


def axis_title(metric: str) -> str:
    """Return what an axis of a metric is called."""
    return MEASURES[metric].title or metric


def named(method: str, n: int) -> str:
    """Return the name of best-of-n of a policy; for n = 1 that of the policy itself."""
    if n == 1:
        return method
    return "best_of_n" if method == "base" else f"{method}+best_of_n"


def title(method: str, n: int | None = None) -> str:
    """Return the title of a method in legends and tables."""
    best = "best-of-n" if n is None else f"best-of-{n}"
    if method == "best_of_n":
        return best
    for suffix, words in _CHANGED.items():
        if method.endswith(suffix):
            return f"{title(method.removesuffix(suffix))}, {words}"
    tuned = style_of(method).title
    return f"{tuned} + {best}" if method.endswith("best_of_n") else tuned


def called(method: str, setting: str = "", n: int | None = None) -> str:
    """A method with the value of what was swept: PPO at kl_coef 0.1."""
    return " at ".join(filter(None, (title(method, n), setting_title(setting))))


def setting_title(setting: str) -> str:
    """Write the value of a swept setting: `kl_coef=0.1` becomes `kl_coef 0.1`."""
    return setting.replace("=", " ")
