"""Numbers of `docs/experiments/gpu.md` are those of the files that it names."""

import json
import statistics

import pytest

from suite.metrics.rows import read_rows
from suite.runtime.paths import REPOSITORY

PAGE = (REPOSITORY / "docs" / "experiments" / "gpu.md").read_text()
FLAT = " ".join(PAGE.split())
H200 = json.loads((REPOSITORY / "results" / "smollm2" / "gpu" / "h200_speed.json").read_text())
PRECISION = REPOSITORY / "results" / "precision"


@pytest.mark.parametrize(("shape", "n"), [("SmolLM2-135M", 8), ("SmolLM2-135M", 64), ("GPT-2 124M", 8)])
def test_speeds_on_a_gpu(shape, n):
    rounds = H200[f"{shape}, n = {n}"]
    speeds = {name: f"{round(64 * n * 24 / statistics.median(seconds), -2):,.0f}" for name, seconds in rounds.items()}
    cells = [f"{shape}, {n}", speeds["generate"]]
    for name in ("captured", "captured kept", "compiled kept"):
        faster = [generate / own for generate, own in zip(rounds["generate"], rounds.get(name, []), strict=False)]
        told = f"{statistics.median(faster):.1f} ({min(faster):.1f} to {max(faster):.1f})" if faster else ""
        cells.append(f"{speeds[name]}, {told}" if faster else "")
    assert f"| {' | '.join(cells)} |".replace("|  |", "| |") in PAGE


def test_what_each_part_brought():
    median = {name: statistics.median(rounds) for name, rounds in H200["parts, SmolLM2-135M, n = 8"].items()}
    drawing, joining = 1 - median["draws"] / median["old"], 1 - median["draws+join"] / median["draws"]
    assert f"tokens drawn inside the graph {drawing:.1%} of a call, joined products {joining:.0%}" in FLAT
    step = H200["milliseconds of a replayed step"]
    attention = step["10 layers, torch's fused attention"] / step["10 layers, two products"]
    assert f"takes {attention:.1f} times as long a step" in FLAT
    assert f"({step['SmolLM2-135M, neither']:.2f} ms a step before both)" in FLAT


def test_sampling_in_bfloat16():
    single, half = (
        {(row.method, row.step, row.n, row.metric, row.kl_kind): row for row in read_rows(PRECISION / kind / "metrics.csv")}
        for kind in ("float32", "bfloat16")
    )
    assert single.keys() == half.keys()
    rows = {
        "base policy": ("base", None, 1),
        "best-of-8": ("best_of_n", None, 8),
        "best-of-64": ("best_of_n", None, 64),
        **{f"PPO, {step} updates": ("ppo", step, 1) for step in (4, 16, 32)},
    }
    for name, at in rows.items():
        numbers = [run[*at, "gold", None] for run in (single, half)]
        if at[0] == "ppo":
            numbers += [run[*at, "kl", "rao_blackwell"] for run in (single, half)]
        told = " | ".join(f"{row.value:.2f} [{row.ci_low:.2f}, {row.ci_high:.2f}]" for row in numbers)
        assert f"| {name} | {told} |" in PAGE
    inside = {
        key: row.ci_low <= half[key].value <= row.ci_high
        for key, row in single.items()
        if row.ci_low is not None and row.ci_high - row.ci_low > 1e-9 and key[3] in ("proxy", "gold", "kl", "win_rate")
    }
    assert f"Of the {len(inside)} rewards, win rates and KLs whose interval has a width, {sum(inside.values())} in" in FLAT
    assert {key[3] for key, is_inside in inside.items() if not is_inside} == {"win_rate", "kl"}
