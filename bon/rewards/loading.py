"""Loading a sequence classifier, and refusing one whose head is random."""

from __future__ import annotations

from typing import Any

from transformers import AutoModelForSequenceClassification


def load_classifier(source: str, **options: Any) -> Any:
    """Return a trained sequence classifier from a folder or the hub.

    transformers gives a language model without a classification head a random one, with no more than a warning: rewards by
    it are noise, another noise at every load.

    Args:
        source: folder, or name on the hub.
        **options: of `AutoModelForSequenceClassification.from_pretrained`.

    Raises:
        ValueError: weights are missing in the files, or of another shape; the message names them.
        OSError: as `from_pretrained`.
    """
    model, found = AutoModelForSequenceClassification.from_pretrained(source, output_loading_info=True, **options)
    missing = sorted(str(key) for key in found["missing_keys"])
    missing += sorted(str(key[0] if isinstance(key, tuple) else key) for key in found.get("mismatched_keys") or [])
    if missing:
        shown = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
        raise ValueError(
            f"{source} is no trained classifier: its files lack {shown}, so they would be random numbers; "
            "use a reward model, or train this one first"
        )
    return model
