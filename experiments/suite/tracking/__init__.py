"""Tracking: what a run's files say, mirrored by W&B, Trackio or TensorBoard. Each library is imported in its own module."""

from suite.tracking.jobs import SAMPLE_COLUMNS
from suite.tracking.tracker import Tracker, open_backend, open_tracker, replay

__all__ = ["SAMPLE_COLUMNS", "Tracker", "open_backend", "open_tracker", "replay"]
