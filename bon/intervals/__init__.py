"""Confidence intervals: prompts are the sampling unit; where there are several training seeds, seeds first, then prompts."""

from bon.intervals.bootstrap import (
    Difference,
    bootstrap_mean,
    bootstrap_seeds_mean,
    jackknife,
    paired_difference,
    seeds_mean,
    seeds_prediction,
    seeds_standard_error,
)
from bon.intervals.power import minimum_detectable_difference, required_prompts
from bon.intervals.resampling import Interval
from bon.intervals.simultaneous import Band, bootstrap_band, greatest_t, seeds_band
from bon.intervals.student import student_mean

__all__ = [
    "Band",
    "Difference",
    "Interval",
    "bootstrap_band",
    "bootstrap_mean",
    "bootstrap_seeds_mean",
    "greatest_t",
    "jackknife",
    "minimum_detectable_difference",
    "paired_difference",
    "required_prompts",
    "seeds_band",
    "seeds_mean",
    "seeds_prediction",
    "seeds_standard_error",
    "student_mean",
]
