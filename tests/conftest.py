"""Hypothesis for every folder: without a clock, and the same examples each time; `make fuzz` is for new ones."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A busy machine is no failure; nor is a commit refused for what it did not change.
settings.register_profile(
    "popexd", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
# `--hypothesis-profile=search` looks further.
settings.register_profile("search", settings.get_profile("popexd"), derandomize=False, max_examples=1000)
settings.load_profile("popexd")
