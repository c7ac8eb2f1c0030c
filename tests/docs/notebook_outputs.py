"""Whether a notebook's outputs are those of another execution, where rounding may have changed a few sampled tokens."""

import re

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_TAG = re.compile(r"<[^>]*>")
#: Of the numbers: means over 24 queries, whose standard errors are up to 0.2, and scores of texts that are the same. A token
#: that differs changes one response of a mean.
ABSOLUTE, RELATIVE = 0.15, 0.1
#: Of the rows of a cell that shows sampled texts.
OTHER_ROWS = 0.25


def differences(kept, again, sampled=()):
    """What is stale in the outputs of `kept`, a line each: text is compared as it is, numbers with a fraction by tolerance.

    Cells whose ids are in `sampled` show sampled texts: some of their rows may be others, if they are as long and wide.
    """
    found = []
    for one, other in zip(kept.cells, again.cells, strict=True):
        if one.cell_type != "code":
            continue
        ours, theirs = (list(_texts(cell)) for cell in (one, other))
        if [kind for kind, _ in ours] != [kind for kind, _ in theirs]:
            found.append(f"{one.id}: outputs of other kinds")
            continue
        for (kind, text), (_, new) in zip(ours, theirs, strict=True):
            found += [f"{one.id}, {kind}: {line}" for line in _stale(text, new, one.id in sampled)]
    return found


def _texts(cell):
    """(kind, text) of everything that a cell shows, images aside."""
    for output in cell.outputs:
        if output.output_type == "stream":
            yield output.name, output.text
        elif output.output_type == "error":
            yield "error", output.ename
        else:
            yield from ((kind, text) for kind, text in sorted(output.data.items()) if kind.startswith("text/"))


def _stale(text, new, sampled):
    ours, theirs = (re.split(r"\n|(?=<tr>)", each) for each in (text, new))
    if len(ours) != len(theirs):
        return [f"{len(ours)} lines, now {len(theirs)}"]
    others, wrong = [], []
    for one, other in zip(ours, theirs, strict=True):
        if _words(one) == _words(other):
            pairs = zip(_NUMBER.findall(one), _NUMBER.findall(other), strict=True)
            wrong += [f"{a} in {one.strip()!r}, now {b}" for a, b in pairs if not _close(a, b)]
        elif sampled and _TAG.findall(one) == _TAG.findall(other):
            others.append(f"{one.strip()!r}, now {other.strip()!r}")
        else:
            wrong.append(f"{one.strip()!r}, now {other.strip()!r}")
    return wrong + (others if len(others) > max(1, OTHER_ROWS * len(ours)) else [])


def _words(line):
    """A line without its numbers, and without what their widths change."""
    return re.sub(r"-{2,}", "--", " ".join(_NUMBER.sub("#", line).split()))


def _close(a, b):
    """Counts are exact."""
    if "." not in a or "." not in b:
        return a == b
    return abs(float(a) - float(b)) <= max(ABSOLUTE, RELATIVE * abs(float(a)))
