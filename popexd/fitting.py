"""Whether an agent's configuration and its model fit each other: judged before anything is measured or started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from popexd.bundle import Bundle, load
from popexd.config import AgentConfig
from popexd.coordinator.choosing import must_fit
from popexd.coordinator.settings import PlannerSettings
from popexd.errors import BundleError, ConfigurationError, InputError
from popexd.runtime import background


@contextmanager
def from_file(path: Path | None) -> Iterator[None]:
    """Have an error say of which file it is.

    Raises:
        ConfigurationError: instead of one that names the key only.

    """
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}" if path else str(error)) from error


def bundle_of(config: AgentConfig) -> Bundle:
    """Load the bundle that is named.

    Raises:
        ConfigurationError: there is no such, or it is damaged; the line names the key.

    """
    try:
        return load(config.model.bundle)
    except BundleError as error:
        raise ConfigurationError(f"model.bundle: {error}") from error


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
        must_fit(settings, background.graph(bundle, background.MachineProfile.even(bundle, 1.0), {}))
    except InputError as error:
        raise ConfigurationError(f"planner.{error}") from error
    return settings
