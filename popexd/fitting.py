"""Whether an agent's configuration and its model fit each other: judged before anything is measured or started."""

from __future__ import annotations

from popexd.bundle import Bundle
from popexd.config import AgentConfig
from popexd.coordinator.choosing import must_fit
from popexd.coordinator.settings import PlannerSettings
from popexd.errors import ConfigurationError, InputError
from popexd.runtime import background


def planner_settings(config: AgentConfig, bundle: Bundle) -> PlannerSettings:
    """Return what planning goes by.

    Raises:
        ConfigurationError: planning cannot go by it with this model; the line names the key.

    """
    given = config.planner
    try:
        settings = PlannerSettings(
            mode=given.mode,
            solver=given.solver,
            objective=given.objective,
            min_accuracy=given.min_accuracy,
            min_agreement=given.min_agreement,
            deadline_seconds=given.deadline_seconds,
            dwell_seconds=given.dwell_seconds,
            quantile=given.quantile,
            thresholds=dict(given.thresholds),
        )
        must_fit(settings, background.graph(bundle, _unmeasured(bundle), {}))
    except InputError as error:
        raise ConfigurationError(f"planner.{error}") from error
    return settings


def _unmeasured(bundle: Bundle) -> background.MachineProfile:
    """Return the profile of a machine that takes a second for everything."""
    return background.MachineProfile(
        fingerprint=bundle.fingerprint,
        machine="none",
        threads=1,
        segments=dict.fromkeys((segment.name for segment in bundle.segments), 1.0),
        exits=dict.fromkeys((branch.name for branch in bundle.exits), 1.0),
        frame_seconds=1.0,
        frame_bytes=1,
    )
