"""Tokens drawn from logits, one uniform number a token."""

from __future__ import annotations

import torch

#: Tokens that are summed to one number before one such block is searched: near the square root of most vocabularies.
_BLOCK = 128


def sampled(logits: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [R] drawn from the softmax of logits [R, V], and their log-probabilities [R] in nats.

    Args:
        logits: in any precision; probabilities are computed in single precision.
        uniforms: [R] in [0, 1).
    """
    probabilities = logits.softmax(-1, dtype=torch.float32)  # in one pass, where they come in half precision
    return _with_logprobs(probabilities, inverse_cdf(probabilities, uniforms))


def most_likely(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The token with the largest of logits [R, V], the first of equals: as `sampled`."""
    probabilities = logits.softmax(-1, dtype=torch.float32)
    return _with_logprobs(probabilities, probabilities.argmax(-1))


def _with_logprobs(probabilities: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return tokens, probabilities.gather(1, tokens[:, None]).squeeze(1).log()


def inverse_cdf(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Tokens [R] drawn from unnormalized probabilities [R, V], one uniform number in [0, 1) a row.

    A token of probability zero is never drawn. A block of tokens is found first, then the token in it: on a CPU a quarter of
    the time of running sums over the whole vocabulary, and a hundredth of what `torch.multinomial` takes. On a GPU those sums
    are the fewer kernels, unless a compiler makes few of either.
    """
    vocabulary, uniforms = probabilities.shape[1], uniforms[:, None].to(probabilities.dtype)
    by_blocks = probabilities.device.type == "cpu" or torch.compiler.is_compiling()
    if not by_blocks or vocabulary <= _BLOCK:
        cdf = probabilities.cumsum(-1)
        return _first_above(uniforms * cdf[:, -1:], cdf).squeeze(1)
    whole = vocabulary // _BLOCK * _BLOCK
    blocks = probabilities[:, :whole].unflatten(1, (-1, _BLOCK)).sum(-1)
    if whole < vocabulary:
        blocks = torch.cat([blocks, probabilities[:, whole:].sum(-1, keepdim=True)], 1)
    cdf = blocks.cumsum(-1)
    target = uniforms * cdf[:, -1:]
    block = _first_above(target, cdf)
    tokens = block * _BLOCK + torch.arange(_BLOCK, device=block.device)
    within = torch.where(tokens < vocabulary, probabilities.gather(1, tokens.clamp(max=vocabulary - 1)), 0.0)
    left = (target - (cdf - blocks).gather(1, block)).clamp(min=0)
    return (block * _BLOCK + _first_above(left, within.cumsum(-1))).squeeze(1).clamp(max=vocabulary - 1)


def _first_above(target: torch.Tensor, cdf: torch.Tensor) -> torch.Tensor:
    """Where the sums [R, K] first exceed the target [R, 1], which is taken to be below the last of them.

    The last place where sums are NaN: a token with that probability is found out, one beyond the vocabulary ends a GPU's work.
    """
    total = cdf[:, -1:]
    below = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cdf, below, right=True).clamp(max=cdf.shape[1] - 1)
