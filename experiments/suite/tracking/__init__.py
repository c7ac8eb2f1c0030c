"""Tracking: what a run's files say, mirrored by W&B, Trackio or TensorBoard. Each library is imported in its own module."""
