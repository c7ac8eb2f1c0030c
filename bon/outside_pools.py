"""Pools of responses that were drawn elsewhere: as texts, by vLLM, in a JSONL file. Knows of no pool but its columns."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray


class FromElsewhere:
    """The constructors of `Candidates` for responses that were drawn elsewhere."""

    @classmethod
    def from_texts(
        cls,
        prompts: Sequence[str],
        responses: Sequence[Sequence[str]],
        *,
        scores: Mapping[str, ArrayLike] | None = None,
        logprobs: ArrayLike | None = None,
        raw_logprobs: ArrayLike | None = None,
        ref_logprobs: ArrayLike | None = None,
        finished: ArrayLike | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Self:
        """Make a pool of responses that were drawn elsewhere.

        >>> from bon import Candidates
        >>> pool = Candidates.from_texts(["1 + 1 ="], [[" 2", " 3"]], scores={"proxy": [[1.0, 0.0]]})
        >>> pool.num_candidates, pool.texts.tolist()
        (2, [[' 2', ' 3']])

        Args:
            prompts: P texts.
            responses: P rows of N texts each, without their prompts.
            scores: name -> [P, N] rewards; None and NaN for candidates without one.
            logprobs: [P, N] as the attribute of that name, like the following.
            raw_logprobs: [P, N].
            ref_logprobs: [P, N].
            finished: [P, N].
            metadata: where the pool comes from, as JSON values.

        Raises:
            ValueError: rows of different lengths, another number of rows than of prompts, something that is no text, or a
                column of another shape.
        """
        columns = {"logprobs": logprobs, "raw_logprobs": raw_logprobs, "ref_logprobs": ref_logprobs, "finished": finished}
        return cls(**text_columns(prompts, responses, scores or {}, columns, metadata))

    @classmethod
    def from_vllm(
        cls,
        outputs: Sequence[Any],
        tokenizer: Any = None,
        *,
        logprobs_mode: Literal["raw_logprobs", "processed_logprobs"] = "raw_logprobs",
        metadata: Mapping[str, Any] | None = None,
    ) -> Self:
        """Make a pool of what `vllm.LLM.generate` returned with `SamplingParams(n=N)`, token ids included.

        Args:
            outputs: a `RequestOutput` for every prompt.
            tokenizer: makes texts of prompts that were given to vLLM as token ids.
            logprobs_mode: vLLM's option of that name, which says what its `cumulative_logprob` is: of the model itself
                (fills `raw_logprobs`), or of the distribution drawn from (fills `logprobs`). Where `SamplingParams` had
                temperature 1 and nothing else that warps, both are one: then add the other by `dataclasses.replace`.
                Without `SamplingParams(logprobs=0)` vLLM gives none.
            metadata: where the pool comes from, as JSON values.

        Raises:
            ValueError: different numbers of responses, an empty response, a prompt without a text and no tokenizer.
        """
        return cls(**vllm_columns(outputs, tokenizer, logprobs_mode, metadata))

    @classmethod
    def from_jsonl(
        cls,
        path: str | os.PathLike[str],
        *,
        prompt: str = "prompt",
        response: str = "response",
        scores: Sequence[str] = (),
        logprob: str | None = None,
        finished: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Self:
        """Make a pool of a file with one JSON object a line: a line a candidate, or a line a prompt with lists.

        Lines of one prompt belong together wherever they stand; prompts keep the order of their first lines, candidates that
        of theirs.

        Args:
            path: the file, UTF-8.
            prompt: the key of the prompt.
            response: the key of the response, or of the list of responses.
            scores: keys of rewards: numbers, or lists of them; null where there is none.
            logprob: the key of the log-probabilities of responses, `logprobs` of the pool.
            finished: the key that says whether a response ended by itself.
            metadata: where the pool comes from, as JSON values; the name of the file unless given.

        Raises:
            ValueError: a line is not such an object, or prompts have different numbers of responses; the message names the
                line, or the prompt.
        """
        return cls(**jsonl_columns(path, prompt, response, scores, logprob, finished, metadata))


def text_columns(
    prompts: Sequence[str],
    responses: Sequence[Sequence[str]],
    scores: Mapping[str, ArrayLike],
    columns: Mapping[str, ArrayLike | None],
    metadata: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Fields of a pool from texts, as `FromElsewhere.from_texts` describes them; None for what it lacks.

    Raises:
        ValueError: rows of different lengths, another number of rows than of prompts, something that is no text, or a column
            that holds no numbers.
    """
    for name, value in (("prompts", prompts), ("responses", responses)):
        if isinstance(value, str) or not hasattr(value, "__len__"):
            raise ValueError(f"{name} must be a list, one entry a prompt, got {type(value).__name__}")
    rows = []
    for index, row in enumerate(responses):
        if isinstance(row, str) or not hasattr(row, "__len__"):
            raise ValueError(f"responses[{index}] must be a list of texts, not {type(row).__name__}: one is [response]")
        rows.append(list(row))
        wrong = next((item for item in rows[-1] if not isinstance(item, str)), None)
        if wrong is not None:
            raise ValueError(f"responses[{index}] must hold texts, got {type(wrong).__name__}")
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise ValueError(f"prompts[{index}] must be a text, got {type(prompt).__name__}")
    if len(rows) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts, but {len(rows)} rows of responses")
    if not rows or not rows[0]:
        raise ValueError("a pool needs at least one prompt and one response to it")
    for index, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(
                f"prompt {index} has {len(row)} responses, prompt 0 has {len(rows[0])}: all need equally many; cut them to "
                f"{min(map(len, rows))}"
            )
    texts = np.empty((len(rows), len(rows[0])), dtype=object)
    texts[:] = rows
    return {
        "prompts": list(prompts),
        "prompt_token_ids": None,
        "texts": texts,
        "token_ids": None,
        "lengths": None,
        **{name: None if value is None else _array(name, value) for name, value in columns.items()},
        "scores": {name: _array(f"scores[{name!r}]", value) for name, value in scores.items()},
        "metadata": dict(metadata or {}),
    }


def vllm_columns(
    outputs: Sequence[Any], tokenizer: Any, logprobs_mode: str, metadata: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Fields of a pool from vLLM's `RequestOutput`s, as `FromElsewhere.from_vllm` describes them.

    Raises:
        ValueError: another mode, different numbers of responses, an empty response, or a prompt without a text.
    """
    if logprobs_mode not in ("raw_logprobs", "processed_logprobs"):
        raise ValueError(f"logprobs_mode must be raw_logprobs or processed_logprobs, got {logprobs_mode!r}")
    prompts = [output.prompt for output in outputs]
    for index, output in enumerate(outputs):
        if prompts[index] is None:
            if tokenizer is None:
                raise ValueError(f"prompt {index} was given to vLLM as token ids: pass the tokenizer, to make a text of it")
            prompts[index] = tokenizer.decode(list(output.prompt_token_ids))
    drawn = [list(output.outputs) for output in outputs]
    finished = [[one.finish_reason not in (None, "length") for one in row] for row in drawn]
    kept: dict[str, Any] = {"logprobs": None, "raw_logprobs": None, "finished": finished}
    known = [[one.cumulative_logprob for one in row] for row in drawn]
    if all(value is not None for row in known for value in row):
        kept["raw_logprobs" if logprobs_mode == "raw_logprobs" else "logprobs"] = known
    columns = text_columns(prompts, [[one.text for one in row] for row in drawn], {}, kept, metadata)
    lengths = np.array([[len(one.token_ids) for one in row] for row in drawn], dtype=np.int32)
    if not lengths.all():
        empty = int(np.argwhere(lengths == 0)[0][0])
        raise ValueError(f"a response to prompt {empty} has no token at all: a pool of tokens cannot hold it; use from_texts")
    token_ids = np.zeros((*lengths.shape, int(lengths.max())), dtype=np.int32)
    for p, row in enumerate(drawn):
        for c, one in enumerate(row):
            token_ids[p, c, : lengths[p, c]] = list(one.token_ids)
    prompt_ids = [list(output.prompt_token_ids) for output in outputs]
    return {**columns, "prompt_token_ids": prompt_ids, "token_ids": token_ids, "lengths": lengths}


def jsonl_columns(
    path: str | os.PathLike[str],
    prompt: str,
    response: str,
    scores: Sequence[str],
    logprob: str | None,
    finished: str | None,
    metadata: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Fields of a pool from a JSONL file, as `FromElsewhere.from_jsonl` describes them.

    Raises:
        ValueError: a line is no such object, or prompts have different numbers of responses.
    """
    keys = [response, *scores, *(key for key in (logprob, finished) if key is not None)]
    rows: dict[str, dict[str, list[Any]]] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where} is no JSON ({error})") from None
        if not isinstance(entry, dict):
            raise ValueError(f"{where} must be an object, got {type(entry).__name__}")
        lacking = [key for key in (prompt, *keys) if key not in entry]
        if lacking:
            raise ValueError(f"{where} has no {lacking[0]!r}; it has {', '.join(map(repr, entry))}")
        if not isinstance(entry[prompt], str):
            raise ValueError(f"{where}: {prompt!r} must be a text, got {type(entry[prompt]).__name__}")
        many = isinstance(entry[response], list)
        columns = rows.setdefault(entry[prompt], {key: [] for key in keys})
        for key in keys:
            values = entry[key] if many else [entry[key]]
            if not isinstance(values, list) or len(values) != (len(entry[response]) if many else 1):
                raise ValueError(f"{where}: {key!r} must be a list with a value for each of {response!r}")
            columns[key].extend(values)
    if not rows:
        raise ValueError(f"{path} holds no candidates")
    column = {key: [of_prompt[key] for of_prompt in rows.values()] for key in keys}
    counts = [len(row) for row in column[response]]
    if len(set(counts)) > 1:
        uneven = next(index for index, count in enumerate(counts) if count != counts[0])
        raise ValueError(
            f"{path}: prompt {uneven} ({list(rows)[uneven][:40]!r}) has {counts[uneven]} responses, the first "
            f"has {counts[0]}: all need equally many"
        )
    kept = {"logprobs": logprob, "raw_logprobs": None, "finished": finished}
    return text_columns(
        list(rows),
        column[response],
        {name: column[name] for name in scores},
        {name: None if key is None else column[key] for name, key in kept.items()},
        {"source": Path(path).name} if metadata is None else metadata,
    )


def _array(name: str, values: Any) -> NDArray[Any]:
    """A column as an array: truth values for `finished`, else numbers, None among which is NaN."""
    kind, holds = (np.bool_, "truth values") if name == "finished" else (np.float64, "numbers")
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    try:
        return np.asarray(values, dtype=kind)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must hold {holds} [prompts, candidates]") from None
