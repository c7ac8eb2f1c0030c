"""TensorBoard, by PyTorch's writer: a folder a job. It has no artifacts and no custom charts; tables are text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import matplotlib.image
import numpy as np
from tabulate import tabulate
from torch.utils.tensorboard import SummaryWriter

from suite.tracking.protocol import Entry, Files, Histogram, Job, Picture, Table, Value


class TensorboardBackend:
    """Event files in the run's own folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tensorboard"

    def open(self, job: Job) -> TensorboardMirror:
        """Begin the job. Event files cannot be gone on with, so those of an earlier sitting are replaced by all entries."""
        shutil.rmtree(self.folder / job.method, ignore_errors=True)
        writer = SummaryWriter(str(self.folder / job.method))
        writer.add_text("config", f"```json\n{json.dumps(job.config, indent=1, default=str)}\n```", 0)
        return TensorboardMirror(writer)

    def told(self) -> str:
        """One line: how to look at it."""
        return f"TensorBoard (to look: tensorboard --logdir {self.folder})"

    def reset(self) -> None:
        """Nothing is shared between jobs."""


class TensorboardMirror:
    """The event file of a job."""

    logged = 0

    def __init__(self, writer: SummaryWriter) -> None:
        self.writer = writer

    def log(self, index: int, entry: Entry) -> None:
        """Log every value at its place on its axis, and see that it is on disk."""
        for key, value in entry.values.items():
            self._write(key, value, entry.at or 0)
        self.writer.flush()

    def _write(self, key: str, value: Value, step: int) -> None:
        if isinstance(value, Histogram):
            counts, edges = np.asarray(value.counts, dtype=float), np.asarray(value.edges, dtype=float)
            centers = (edges[1:] + edges[:-1]) / 2
            self.writer.add_histogram_raw(
                key, min=float(edges[0]), max=float(edges[-1]), num=float(counts.sum()),
                sum=float((counts * centers).sum()), sum_squares=float((counts * centers**2).sum()),
                bucket_limits=edges[1:].tolist(), bucket_counts=counts.tolist(), global_step=step,
            )  # fmt: skip
        elif isinstance(value, Picture):
            self.writer.add_image(key, matplotlib.image.imread(value.path)[..., :3], step, dataformats="HWC")
        elif isinstance(value, Table):
            rows = [
                ["" if cell is None else str(cell).replace("|", "\\|").replace("\n", " ") for cell in row]
                for row in value.rows
            ]
            self.writer.add_text(
                key, tabulate(rows, headers=list(value.columns), tablefmt="github", disable_numparse=True), step
            )
        else:
            self.writer.add_scalar(key, value, step)

    def warn(self, kind: str, text: str) -> None:
        """Show it among the texts."""
        self.writer.add_text(f"warning/{kind}", text, 0)
        self.writer.flush()

    def keep(self, inputs: Sequence[Files], outputs: Sequence[Files]) -> None:
        """TensorBoard keeps no files."""

    def close(self, whole: bool) -> None:
        """Close the file."""
        self.writer.close()
