"""For every folder: Hypothesis without a clock and with the same examples each time; no width of a terminal.

`make fuzz` is for new examples.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# A busy machine is no failure; nor is a commit refused for what it did not change.
settings.register_profile(
    "popexd", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
# `--hypothesis-profile=search` looks further.
settings.register_profile("search", settings.get_profile("popexd"), derandomize=False, max_examples=1000)
settings.load_profile("popexd")

# readline, which pytest loads, hands its idea of a terminal down to pytest-xdist's workers.
os.environ.pop("COLUMNS", None)
