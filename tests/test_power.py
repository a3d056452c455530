"""Energy of the device's work and sending."""

from __future__ import annotations

from dataclasses import replace

import pytest

from popexd.errors import ProfileError
from popexd.latency import predict
from popexd.power import Power
from popexd.profile import LayerGraph
from tests.graphs import cut_plan, toy, uplink


def test_work_and_sending_are_added_up() -> None:
    """Seconds of each, times its watts; waiting costs nothing."""
    graph = replace(toy(10, 0), power=Power(4.0, 2.0))
    expected = predict(cut_plan(graph, 1), graph, uplink(8, rtt_ms=50))

    assert expected.device_joules == pytest.approx(4.0 * 0.010 + 2.0 * 0.050)


def test_power_is_kept_in_the_profile() -> None:
    """Written, and read again; the usual figures are not written."""
    graph = replace(toy(10, 0), power=Power(4.0, 2.0))

    assert LayerGraph.from_json(graph.to_json()).power == Power(4.0, 2.0)
    assert "power" not in toy(10, 0).to_json()
    assert LayerGraph.from_json(toy(10, 0).to_json()).power == Power()


@pytest.mark.parametrize("watts", [-1.0, float("nan"), float("inf")])
def test_senseless_power_is_refused(watts: float) -> None:
    """One line with the field."""
    with pytest.raises(ProfileError, match=r"power.compute_watts: .*, expected a finite number, zero or more"):
        Power(compute_watts=watts)
