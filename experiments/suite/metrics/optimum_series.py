"""Rows to what is drawn of the optimum: its curve against KL, and the share of it that each method gains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from suite.metrics.naming import BOUNDED_SHARE
from suite.metrics.rows import Row, select
from suite.metrics.series import Curve, curve, level, settings


@dataclass(frozen=True)
class SharePoint:
    """The share of the optimum that a method gains at one price.

    Attributes:
        beta: price of a nat, in units of the proxy reward.
        share: the row of the share; its metric says whether it is a bound.
        setting: of the method, blank where nothing was swept.
    """

    beta: float
    share: Row
    setting: str

    @property
    def bound(self) -> str | None:
        """`upper`, `lower`, or None where the optimum is known."""
        return next(bound for bound, metric in BOUNDED_SHARE.items() if metric == self.share.metric)


def optimum_curve(rows: Sequence[Row], metric: str) -> tuple[Curve, Curve]:
    """KL and a metric of the optimum, in the order of KL, where the pool knows both; empty curves where it knows none."""
    values = {row.setting: row for row in select(rows, method="optimum", metric=metric)}
    pairs = [(kl, values[kl.setting]) for kl in select(rows, method="optimum", metric="kl") if kl.setting in values]
    pairs.sort(key=lambda pair: pair[0].value)
    order = list(range(len(pairs)))
    return curve(order, [kl for kl, _ in pairs]), curve(order, [value for _, value in pairs])


def optimum_objective(rows: Sequence[Row], beta: float) -> Row | None:
    """Return what the optimum gains at a price, or at least gains; None where that is not in the rows."""
    found = select(rows, method="optimum", setting=f"beta={beta:g}")
    return next((row for row in found if row.metric in ("objective", "objective_at_least")), None)


def share_points(rows: Sequence[Row], method: str) -> list[SharePoint]:
    """The shares of a tuned method, one for each setting, in the order of the prices."""
    points = []
    for setting in settings(rows, method):
        beta, share = level(rows, method, "beta", setting), share_of(rows, method, setting)
        if beta is not None and share is not None:
            points.append(SharePoint(beta.value, share, setting))
    return sorted(points, key=lambda point: point.beta)


def share_of(rows: Sequence[Row], method: str, setting: str = "") -> Row | None:
    """The share of the optimum that a tuned method gains, known or a bound; None where it is not in the rows."""
    found = (level(rows, method, metric, setting) for metric in BOUNDED_SHARE.values())
    return next((row for row in found if row is not None), None)


def best_of_n_points(rows: Sequence[Row]) -> list[SharePoint]:
    """The shares of best-of-n at its best n, one for each price, in their order."""
    own = [row for row in rows if row.method == "best_of_n" and row.setting.startswith("beta=")]
    prices = {row.setting: row.value for row in own if row.metric == "beta"}
    shares = [row for row in own if row.metric in BOUNDED_SHARE.values()]
    points = [SharePoint(prices[row.setting], row, row.setting) for row in shares]
    return sorted(points, key=lambda point: point.beta)


def best_of_n_at_best(rows: Sequence[Row]) -> SharePoint | None:
    """Best-of-n at the price where its share is greatest; None where the optimum is known at none."""
    found = select(rows, method="best_of_n", metric=BOUNDED_SHARE[None], setting="")
    beta = select(rows, method="best_of_n", metric="beta", setting="")
    return SharePoint(beta[0].value, found[0], "") if found and beta else None
