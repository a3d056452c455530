"""Whatever comes from outside is read or refused, and nothing else; `make fuzz` looks for longer."""

from __future__ import annotations

import pytest
import structlog
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from .strategies import inputs
from .targets import TARGETS, prepare

EXAMPLES = 100


@pytest.fixture(autouse=True)
def _quiet() -> object:
    """What is refused is logged; not here."""
    prepare()
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("name", TARGETS)
def test_good_examples_are_read(name: str) -> None:
    """The search begins from what is right."""
    for seed in TARGETS[name].seeds():
        TARGETS[name].run(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_from_outside_is_a_fault(name: str) -> None:
    """A bounded search, the same each time."""

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.deferred(lambda: inputs(TARGETS[name])))
    def search(data: bytes) -> None:
        TARGETS[name].run(data)

    search()
