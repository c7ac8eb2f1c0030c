"""Write the tables of docs/experiments/scale.md: what the simulator says, beside what was measured here and elsewhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from tabulate import tabulate

from suite.pools.recipe import MOST_CANDIDATES, PROMPT_BLOCK
from suite.runtime.errors import UserError
from suite.scaling.hardware import ACCELERATORS, H100, POLICIES, PUBLISHED, PUT_DOLLARS, STORAGE_DOLLARS, Language
from suite.scaling.measured import Measured
from suite.scaling.roofline import Assumptions, ceiling, request, sampling_rate

NS = (4, 16, 64, 256, 1024)
READS = ("by every response", "once a prompt")
_PROMPTS = 10**6


def tables(measured: Measured, assumed: Assumptions | None = None) -> dict[str, str]:
    """Every table by its name in the document, as Markdown."""
    assumed = assumed or Assumptions()
    return {
        "checked": checked(measured),
        "published": published(assumed),
        "costs": costs(measured, assumed),
        "accelerators": accelerators(measured, assumed),
        "bottlenecks": bottlenecks(measured, assumed),
        "pool": pool(measured, assumed),
    }


def judge_of(policy: Language) -> Language:
    """The reward model of a policy: of its own size, at most 8B (an assumption)."""
    return min(policy, POLICIES[2], key=lambda one: one.parameters)


def candidate_bytes(measured: Measured, tokens: float) -> float:
    """Bytes of a candidate in a shard, on the straight line through the measured ones."""
    slope, constant = np.polyfit([one.tokens for one in measured.stored], [one.bytes for one in measured.stored], 1)
    return float(constant + slope * tokens)


def checked(measured: Measured) -> str:
    """Sampling on this project's Ray actors: the first run sets the simulator, the others are predictions."""
    first = measured.runs[0]
    speed = first.flops_per_candidate / first.core_seconds
    rows = []
    for run in measured.runs:
        predicted = run.flops_per_candidate / speed
        error = "sets it" if run is first else f"{predicted / run.core_seconds - 1:+.0%}"
        alone = next(one for one in measured.runs if one.n == run.n and one.processes == 1)
        idle = f"{sampling_rate(speed, run.flops_per_candidate, run.processes):.0f}"
        clock = f"{run.candidates_per_second:.0f}"
        speedup = f"{run.candidates_per_second / alone.candidates_per_second:.2f}"
        milliseconds = [f"{1000 * seconds:.2f}" for seconds in (predicted, run.core_seconds)]
        rows.append([run.n, run.processes, *milliseconds, error, idle, clock, speedup])
    headers = ["n", "actors", "core ms a candidate, predicted", "measured", "error", "candidates/s on idle cores, predicted",
               f"measured at a load of {measured.load:.1f}", "speed-up at that load"]  # fmt: skip
    return _table(headers, rows)


def published(assumed: Assumptions) -> str:
    """Others' measurements beside the simulator's and the ceiling of the memory."""
    rows = []
    for one in PUBLISHED:
        policy = next(known for known in POLICIES if known.name == one.policy)
        lengths = replace(assumed, prompt_tokens=one.prompt_tokens, response_tokens=one.response_tokens)
        # Alone on its GPU, whatever the share of its weights: that is what was measured.
        lengths = replace(lengths, weights_share=1.0)
        simulated = request(policy, policy, 1, one.accelerator, lengths, 0.0, one.bytes_per_weight, one.concurrency)
        rate = one.response_tokens / (simulated.seconds * simulated.gpus)
        top = ceiling(policy, one.accelerator, one.concurrency, one.bytes_per_weight)
        note = "beyond the ceiling: not used" if one.tokens_per_second > top else f"{rate / one.tokens_per_second - 1:+.0%}"
        setting = f"{one.policy}, {'BF16' if one.bytes_per_weight == 2 else 'FP8'}, {one.engine}, {one.accelerator.name}"
        rows.append([setting, one.concurrency, f"{one.tokens_per_second:.0f}", f"{rate:.0f}", f"{top:.0f}", note, one.source])
    return _table(["setting", "at once", "published tokens/s", "simulated", "ceiling", "difference", "source"], rows)


def costs(measured: Measured, assumed: Assumptions) -> str:
    """Dollars for a million requests on H100s, for every policy and n; n = 1 is the policy alone."""
    stored = candidate_bytes(measured, assumed.response_tokens)
    rows = []
    for policy in POLICIES:
        for reads in READS:
            lengths = replace(assumed, prefix_read_once=reads == READS[1])
            found = [request(policy, judge_of(policy), n, H100, lengths, stored if n > 1 else 0.0) for n in (1, *NS)]
            per_token = f"{policy.flops / 1e9:.3g}"
            dollars = (_dollars(one.dollars(H100) * 1e6) for one in found)
            rows.append([policy.name, per_token, found[0].gpus, reads, *dollars])
    return _table(["policy", "GFLOP a token", "GPUs", "prompt's cache is read", *(f"n={n}" for n in (1, *NS))], rows)


def accelerators(measured: Measured, assumed: Assumptions) -> str:
    """Dollars for a million requests at n = 64 on each GPU."""
    stored = candidate_bytes(measured, assumed.response_tokens)
    rows = []
    for kind in ACCELERATORS:
        found = [request(policy, judge_of(policy), 64, kind, assumed, stored) for policy in POLICIES]
        figures = [f"{kind.flops / 1e12:.0f}", f"{kind.bandwidth / 1e12:.2f}", f"{kind.dollars_per_hour:.2f}"]
        rows.append([kind.name, *figures, *(_dollars(one.dollars(kind) * 1e6) for one in found), kind.source])
    headers = ["GPU", "TFLOP/s", "TB/s", "$ an hour", *(policy.name for policy in POLICIES), "source"]
    return _table(headers, rows)


def bottlenecks(measured: Measured, assumed: Assumptions) -> str:
    """The stage that takes most of a request, with its share, on H100s."""
    stored = candidate_bytes(measured, assumed.response_tokens)
    rows = []
    for policy in POLICIES:
        for reads in READS:
            lengths, cells = replace(assumed, prefix_read_once=reads == READS[1]), []
            for n in (1, *NS):
                one = request(policy, judge_of(policy), n, H100, lengths, stored if n > 1 else 0.0)
                longest = max(one.prefill, one.decode, one.reward, one.write)
                cells.append(f"{one.bottleneck} {longest / one.seconds:.0%}, {one.responses_at_once} at once")
            rows.append([policy.name, reads, *cells])
    return _table(["policy", "prompt's cache is read", *(f"n={n}" for n in (1, *NS))], rows)


def pool(measured: Measured, assumed: Assumptions) -> str:
    """A pool of a million prompts with 1,024 candidates each, for responses of 24 tokens and of the assumed length."""
    rows = []
    for tokens in (24, assumed.response_tokens):
        each = candidate_bytes(measured, tokens)
        total, shard = each * _PROMPTS * 1024, each * PROMPT_BLOCK * MOST_CANDIDATES
        shards = int(np.ceil(_PROMPTS / PROMPT_BLOCK)) * (1024 // MOST_CANDIDATES)
        hours = total / assumed.upload / 3600
        per_second = 1 / request(POLICIES[2], POLICIES[2], 1024, H100, replace(assumed, response_tokens=tokens)).seconds
        stream = f"{per_second * 1024 * each / 1e6:.2f}"
        money = [f"{total / 1e9 * STORAGE_DOLLARS:,.0f}", f"{shards * PUT_DOLLARS:.2f}"]
        rows.append(
            [tokens, f"{each:.0f}", f"{total / 1e12:.2f}", f"{shards:,}", f"{shard / 1e6:.1f}", *money, f"{hours:.1f}", stream]
        )
    headers = ["tokens a response", "bytes a candidate", "TB", "shards", "MB a shard", "$ a month", "$ of PUTs",
               "hours at 1 writer", "MB/s from one H100 (8B)"]  # fmt: skip
    return _table(headers, rows)


def written(document: str, made: dict[str, str]) -> str:
    """The document with every table between its marks replaced.

    Raises:
        UserError: a table has no place in the document, or a place no table.
    """
    marks = re.findall(r"<!-- table: (\w+) -->", document)
    if sorted(marks) != sorted(made):
        raise UserError(
            f"document: its tables are {', '.join(sorted(marks)) or 'none'}, those made are {', '.join(sorted(made))}"
        )
    for name, table in made.items():
        before, begin, rest = document.partition(f"<!-- table: {name} -->\n")
        _, end, behind = rest.partition("<!-- end -->")
        document = f"{before}{begin}{table}\n{end}{behind}"
    return document


def _dollars(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)
