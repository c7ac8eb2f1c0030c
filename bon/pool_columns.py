"""The columns of a pool as a dict of fields: checked and owned, joined, and as the table of a file. Knows no `Candidates`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bon.candidate_files import Ragged, Table
from bon.checks import json_values, owned

#: Fields that a pool of texts may lack, and what they are.
TOKEN_FIELDS = {
    "prompt_token_ids": "token ids of its prompts",
    "token_ids": "token ids",
    "lengths": "lengths in tokens",
    "logprobs": "log-probabilities under the distribution it was drawn from",
    "raw_logprobs": "log-probabilities under the model without warping",
}
#: Fields that are arrays [P, N, ...], and their kinds.
ARRAYS: dict[str, Any] = {
    "texts": object,
    "token_ids": np.int32,
    "lengths": np.int32,
    "logprobs": np.float64,
    "raw_logprobs": np.float64,
    "ref_logprobs": np.float64,
    "finished": np.bool_,
}
#: Columns of numbers in a file, and the fields that they hold.
_NUMBERS = {
    "length": "lengths",
    "logprob": "logprobs",
    "raw_logprob": "raw_logprobs",
    "ref_logprob": "ref_logprobs",
    "finished": "finished",
}
_TEXTS = ("prompt_id", "candidate_id", "prompt", "response")
_RESERVED = {*_TEXTS, "prompt_token_ids", "token_ids", *_NUMBERS}
#: What the name of a column of reasons ends in.
_REASON = "_reason"
_SPENT = ("tokens", "seconds", "scoring_seconds")


def owned_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields as a pool's own: arrays that cannot be written to, lists, metadata as JSON. None stays None.

    Raises:
        ValueError: a field is not of its kind, two disagree about P, N or T, or a length lies outside 1..T.
    """
    own: dict[str, Any] = {
        name: None if fields[name] is None else owned(name, fields[name], kind) for name, kind in ARRAYS.items()
    }
    prompt_ids = fields["prompt_token_ids"]
    own["prompts"] = list(fields["prompts"])
    own["prompt_token_ids"] = None if prompt_ids is None else [list(ids) for ids in prompt_ids]
    for name, kind in (("scores", np.float64), ("reasons", object)):
        own[name] = {key: owned(f"{name}[{key!r}]", values, kind) for key, values in fields[name].items()}
    own["metadata"] = json_values(fields["metadata"], "metadata")
    _check(own)
    if own["finished"] is None and own["token_ids"] is not None and own["lengths"].size:
        told = ended_by_token(own["token_ids"], own["lengths"], own["metadata"])
        own["finished"] = None if told is None else owned("finished", told, np.bool_)
    return own


def _check(own: Mapping[str, Any]) -> None:
    token_ids, lengths = own["token_ids"], own["lengths"]
    if token_ids is None:
        shape, says = own["texts"].shape, "texts"
        if len(shape) != 2:
            raise ValueError(f"texts must be [prompts, candidates], got shape {shape}")
    else:
        shape, says = token_ids.shape[:2], "token_ids"
        if token_ids.ndim != 3:
            raise ValueError(f"token_ids must be [prompts, candidates, tokens], got shape {token_ids.shape}")
        if lengths is None:
            raise ValueError("token_ids need lengths: which of them are no padding?")
    columns = {name: own[name] for name in ARRAYS if name != "token_ids"}
    for name in ("scores", "reasons"):
        columns.update({f"{name}[{key!r}]": values for key, values in own[name].items()})
    for name, values in columns.items():
        if values is not None and values.shape != shape:
            raise ValueError(f"{name} has shape {values.shape}, but {says} says [prompts, candidates] = {shape}")
    prompt_ids = len(own["prompts"] if own["prompt_token_ids"] is None else own["prompt_token_ids"])
    if not len(own["prompts"]) == prompt_ids == shape[0]:
        raise ValueError(f"{len(own['prompts'])} prompts and {prompt_ids} prompt_token_ids, but {shape[0]} rows")
    if token_ids is not None and lengths.size and not (lengths.min() >= 1 and lengths.max() <= token_ids.shape[2]):
        raise ValueError(f"lengths must lie in 1..{token_ids.shape[2]}, got {lengths.min()}..{lengths.max()}")


def ended_by_token(
    token_ids: NDArray[np.int32], lengths: NDArray[np.int32], metadata: Mapping[str, Any]
) -> NDArray[np.bool_] | None:
    """Whether the last token of each response ends a text [P, N]; None where metadata does not say which tokens do."""
    sampling = metadata.get("sampling")
    if not isinstance(sampling, Mapping):
        return None
    ends = sampling.get("eos_token_id")
    last = np.take_along_axis(token_ids, lengths[..., None].astype(np.int64) - 1, axis=2)[..., 0]
    return np.isin(last, [] if ends is None else ends)


def joined(pools: Sequence[Mapping[str, Any]], axis: int) -> dict[str, Any]:
    """Return arrays, scores, reasons and metadata of all pools joined along an axis: 0 for prompts, 1 for candidates.

    None, or left out, where one lacks them. What was spent adds up; all other metadata is the first pool's.

    Raises:
        ValueError: the pools say that they were drawn from different distributions.
    """
    _check_one_law([pool["metadata"].get("sampling") for pool in pools])
    both: dict[str, Any] = {}
    for name in ARRAYS:
        arrays = [pool[name] for pool in pools]
        if any(array is None for array in arrays):
            both[name] = None
            continue
        if name == "token_ids":
            width = max(array.shape[2] for array in arrays)
            arrays = [np.pad(array, ((0, 0), (0, 0), (0, width - array.shape[2]))) for array in arrays]
        both[name] = np.concatenate(arrays, axis=axis)
    for name in ("scores", "reasons"):
        columns = [pool[name] for pool in pools]
        shared = [key for key in columns[0] if all(key in column for column in columns)]
        both[name] = {key: np.concatenate([column[key] for column in columns], axis=axis) for key in shared}
    known = [pool["metadata"] for pool in pools]
    spent = {key: sum(metadata.get(key, 0) for metadata in known) for key in _SPENT if any(key in one for one in known)}
    absent = [metadata.get("excluded", {}) for metadata in known]
    excluded = {key: sum(one.get(key, 0) for one in absent) for key in {key: None for one in absent for key in one}}
    return {**both, "metadata": {**known[0], **spent, **({"excluded": excluded} if excluded else {})}}


def _check_one_law(sampling: Sequence[Mapping[str, Any] | None]) -> None:
    """Refuse pools whose sampling options differ in more than lengths and padding, which change no distribution."""
    laws = [
        {name: value for name, value in options.items() if name not in ("max_new_tokens", "max_length", "pad_token_id")}
        for options in sampling
        if options is not None
    ]
    for law in laws[1:]:
        changed = sorted(name for name in law.keys() | laws[0].keys() if law.get(name) != laws[0].get(name))
        if changed:
            told = ", ".join(f"{name}={laws[0].get(name)!r} and {law.get(name)!r}" for name in changed)
            raise ValueError(f"pools drawn from different distributions are not joined: {told}")


def table_of(fields: Mapping[str, Any]) -> Table:
    """Return the table of a pool, a row a candidate; columns that it lacks are left out.

    Raises:
        ValueError: a score has the name of another column.
    """
    reasons = {name + _REASON: values for name, values in fields["reasons"].items()}
    clash = set(fields["scores"]) & {*_RESERVED, *reasons}
    if clash:
        raise ValueError(f"a score cannot be named {sorted(clash)[0]!r}: the file has a column of that name")
    prompts, candidates = fields["texts"].shape
    prompt_id = np.repeat(np.arange(prompts, dtype=np.int32), candidates)
    columns: dict[str, Any] = {
        "prompt_id": prompt_id,
        "candidate_id": np.tile(np.arange(candidates, dtype=np.int32), prompts),
        "prompt": np.array(fields["prompts"], dtype=object)[prompt_id],
        "response": fields["texts"].reshape(-1),
    }
    if fields["prompt_token_ids"] is not None:
        lengths = np.array([len(ids) for ids in fields["prompt_token_ids"]], dtype=np.int64)
        ids = [np.tile(np.asarray(ids, dtype=np.int32), candidates) for ids in fields["prompt_token_ids"]]
        columns["prompt_token_ids"] = Ragged(np.concatenate([np.empty(0, np.int32), *ids]), lengths[prompt_id])
    numbers = dict(_NUMBERS)
    if fields["token_ids"] is not None:
        kept = np.arange(fields["token_ids"].shape[2]) < fields["lengths"][..., None]
        columns["token_ids"] = Ragged(fields["token_ids"][kept], fields["lengths"].reshape(-1))
        told = ended_by_token(fields["token_ids"], fields["lengths"], fields["metadata"])
        if told is not None and np.array_equal(told, fields["finished"]):
            del numbers["finished"]
    columns.update({name: fields[field].reshape(-1) for name, field in numbers.items() if fields[field] is not None})
    columns.update({name: values.reshape(-1) for name, values in {**fields["scores"], **reasons}.items()})
    lacking = [name for name in TOKEN_FIELDS if fields[name] is None]
    header = {"prompts": prompts, "candidates": candidates, "scores": list(fields["scores"])}
    if lacking:
        header["lacking"] = lacking
    return Table(columns, header, dict(fields["metadata"]))


def fields_of(table: Table, origin: str) -> dict[str, Any]:
    """Return the fields of the pool in a table, whatever the order of its rows; `origin` is its name in messages.

    Raises:
        ValueError: the table lacks a column or a row.
    """
    prompts, candidates, names = table.header["prompts"], table.header["candidates"], table.header["scores"]
    lacking, columns = table.header.get("lacking", []), table.columns
    file_names = {field: name for name, field in _NUMBERS.items()}
    expected = [*_TEXTS, *(file_names.get(name, name) for name in TOKEN_FIELDS if name not in lacking), *names]
    missing = [name for name in expected if name not in columns]
    if missing:
        raise ValueError(f"{origin} is not a whole candidates file: it has no column {missing[0]!r}; delete it")
    place = columns["prompt_id"].astype(np.int64) * candidates + columns["candidate_id"]
    order = np.argsort(place, kind="stable")
    if not np.array_equal(place[order], np.arange(prompts * candidates)):
        raise ValueError(
            f"{origin} is not a whole candidates file: {prompts} prompts with {candidates} candidates each need as many "
            "different rows; delete it"
        )

    def column(name: str) -> Any:
        return columns[name][order].reshape(prompts, candidates) if name in columns else None

    fields: dict[str, Any] = {field: column(name) for name, field in _NUMBERS.items()}
    firsts = order.reshape(prompts, candidates)[:, 0]
    fields["token_ids"] = fields["prompt_token_ids"] = None
    if "token_ids" in columns:
        lengths = fields["lengths"]
        token_ids = np.zeros((prompts, candidates, int(lengths.max(initial=1))), dtype=np.int32)
        token_ids[np.arange(token_ids.shape[2]) < lengths[..., None]] = columns["token_ids"].taken(order).values
        fields["token_ids"] = token_ids
    if "prompt_token_ids" in columns:
        ids = columns["prompt_token_ids"].taken(firsts)
        fields["prompt_token_ids"] = [row.tolist() for row in np.split(ids.values, np.cumsum(ids.lengths)[:-1])]
    return {
        **fields,
        "prompts": columns["prompt"][firsts].tolist(),
        "texts": column("response"),
        "scores": {name: column(name) for name in names},
        "reasons": {name: column(name + _REASON) for name in names if name + _REASON in columns},
        "metadata": table.metadata,
    }
