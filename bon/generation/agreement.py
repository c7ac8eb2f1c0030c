"""Which rows of a model may share a batch: found out from the model, once, instead of from a list of names.

A row must get the logits in a batch that it gets alone. Some models count positions from the left edge, padding included,
some mix the states of rows, some forget in a cache what they saw. So two rows are run: one alone by transformers' own
`generate`, then both together; where the first gets other logits than alone, they are kept apart as far as they have to be.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import GenerationConfig, LogitsProcessor

from bon.generation.fast.views import sampling_view
from bon.generation.token_loop import decode
from bon.model_facts import device_of, takes, usable_positions, vocabulary_size
from bon.model_view import caller_of

#: Tokens of the row that is compared, of the one beside it, and steps taken after them.
_SHORT, _LONG, _STEPS = 3, 12, 6
#: Positional encodings that depend on the longest text of a batch, once it is longer than this model's first training texts.
_BY_LONGEST = frozenset({"longrope", "dynamic"})


class Sharing(enum.Enum):
    """Which rows may share a batch, and who runs the steps."""

    ANY = "rows of any lengths"
    EQUAL = "rows of one length"
    NONE = "no two rows"
    BY_GENERATE = "no two rows, each by transformers' generate"


_found: WeakKeyDictionary[Any, dict[tuple[Any, ...], Sharing]] = WeakKeyDictionary()


def sharing(view: Any, config: GenerationConfig, longest: int) -> Sharing:
    """Which rows of a model may share a batch.

    Args:
        view: of the model.
        config: from `resolve_generation_config`.
        longest: the most tokens of a prompt and its response.

    Raises:
        ValueError: the model looks at tokens that follow.
    """
    model = caller_of(view)
    key = (config.pad_token_id, model.config.get_text_config()._attn_implementation, model.dtype, str(model.device))
    known = _found.setdefault(model, {})
    if key not in known:
        known[key] = _tried(sampling_view(model, hooks=False), config)
    found = known[key]
    return Sharing.EQUAL if found is Sharing.ANY and _depends_on_longest(model, longest) else found


def _tried(view: Any, config: GenerationConfig) -> Sharing:
    room = usable_positions(view)
    tokens = _ordinary_tokens(view)
    if len(tokens) < 2 or (room is not None and room < _SHORT + 2):
        return Sharing.NONE
    steps = _STEPS if room is None else min(_STEPS, room - _SHORT - 1)
    long = _LONG if room is None else min(_LONG, room - steps)
    row, other = _cycle(tokens, 0, _SHORT), _cycle(tokens, 1, long)
    _check_causal(view, row, tokens)
    alone = _logits(view, config, [row], tokens, steps, by_generate=True)
    if not alone.isfinite().any():
        return Sharing.ANY  # told when tokens are drawn
    ways = {
        Sharing.ANY: ([row, other], False),
        Sharing.EQUAL: ([row, _cycle(tokens, 1, _SHORT)], False),
        Sharing.NONE: ([row], False),
    }
    for way, (rows, by_generate) in ways.items():
        if _agree(_logits(view, config, rows, tokens, steps, by_generate), alone):
            return way
    return Sharing.BY_GENERATE


def _agree(found: torch.Tensor, alone: torch.Tensor) -> bool:
    """Whether logits [T, V] are equal but for rounding, which is far below what another position or state changes."""
    seen = alone.isfinite() & found.isfinite()
    spread = alone[alone.isfinite()].std().clamp(min=1e-30)
    allowed = float(torch.finfo(alone.dtype).eps) ** 0.5
    return bool(((found - alone).abs()[seen] <= allowed * spread).float().mean() > 0.99)


@torch.inference_mode()
def _logits(
    view: Any, config: GenerationConfig, rows: Sequence[list[int]], tokens: list[int], steps: int, by_generate: bool
) -> torch.Tensor:
    """Logits [T, V] that the first row gets before each of T tokens, which are given."""
    forced = _Forced(_cycle(tokens, 2, steps))
    options = GenerationConfig(do_sample=False, pad_token_id=config.pad_token_id)
    device = device_of(view)
    decode(
        view,
        options,
        rows,
        1,
        torch.zeros((len(rows), steps), device=device),
        torch.full((len(rows),), steps, device=device),
        extra_processor=forced,
        by_generate=by_generate,
    )
    return torch.stack(forced.logits)


class _Forced(LogitsProcessor):
    """Keeps the first row's logits and leaves no choice of the next token."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens, self.logits = tokens, []  # type: ignore[var-annotated]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        token = self.tokens[len(self.logits)]
        self.logits.append(scores[0].float().cpu())
        chosen = torch.full_like(scores, -torch.inf)
        chosen[:, token] = 0.0
        return chosen


@torch.inference_mode()
def _check_causal(view: Any, row: list[int], tokens: list[int]) -> None:
    if not takes(view, "attention_mask"):
        return
    ids = torch.tensor([row, [*row[:-1], tokens[-1] if tokens[-1] != row[-1] else tokens[-2]]], device=device_of(view))
    one, other = view(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, : len(row) - 1].float()
    if not _agree(other, one):
        raise ValueError(
            f"{type(caller_of(view)).__name__} looks at tokens that follow, as it is configured: candidates are drawn from "
            "causal language models (is_decoder=True in its config?)"
        )


def _ordinary_tokens(view: Any) -> list[int]:
    """Some token ids, without those that the configs name: padding, ends, pictures."""
    size = vocabulary_size(view) or 0
    special: set[int] = set()
    for config in (view.config, view.config.get_text_config()):
        for name, value in vars(config).items():
            if name.endswith(("_token_id", "_token_index", "_token_ids")):
                special.update(one for one in (value if isinstance(value, list | tuple) else [value]) if isinstance(one, int))
    stride = max(1, size // 16)
    spread = [token for token in range(stride // 2, size, stride) if token not in special]
    return (spread if len(spread) > 1 else [token for token in range(size) if token not in special])[:16]


def _cycle(tokens: list[int], begin: int, count: int) -> list[int]:
    return [tokens[(begin + 3 * index) % len(tokens)] for index in range(count)]


def _depends_on_longest(model: Any, longest: int) -> bool:
    config = model.config.get_text_config()
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in [ropes, *(each for each in ropes.values() if isinstance(each, dict))]:
        if rope.get("rope_type") in _BY_LONGEST:
            first = rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
            return longest > (first or config.max_position_embeddings)
    return False
