"""Hypothesis without a clock: how long an example takes says nothing about the planner."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("planning", deadline=None)
settings.load_profile("planning")
