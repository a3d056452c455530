"""Watches whether live frames are still what the model was validated on."""

from __future__ import annotations

from typing import Any

from popexd.coordinator.events import Classified, Notice
from popexd.coordinator.frames import Frame, Phase
from popexd.estimators.drift import Drift
from popexd.validation import FINAL, Validation


class Watch:
    """What exits say of frames, held against the validation table; without a table there is nothing to hold against."""

    def __init__(self, table: Validation | None) -> None:
        self._drift = None if table is None else Drift(table)

    def looked(self, frame: Frame) -> None:
        """Take in the image-quality class of a frame that was decoded."""
        if self._drift is not None and frame.quality is not None:
            self._drift.looked(frame.quality, frame.camera)

    def said(self, frame: Frame, exit_name: str, said: Classified, left: bool) -> None:
        """Take in what an exit said of a frame.

        A worker tells of its branches only where they answered, so what they say is left out: it would look too sure.
        """
        if self._drift is None:
            return
        bounds = frame.itinerary.thresholds
        here = {step.exit for step in frame.itinerary.steps}
        if exit_name != FINAL and exit_name not in here:
            return
        by_worker = frame.phase is Phase.SHIPPED
        passed = [name for name in bounds if name in frame.asked or (exit_name == FINAL and by_worker)]
        asked = [(name, bounds[name]) for name in passed if name != exit_name]
        if exit_name in bounds:
            asked.append((exit_name, bounds[exit_name]))
        certainty = said.confidence if said.certainty is None else said.certainty
        self._drift.said(exit_name, certainty, left, asked, frame.quality, frame.camera, said.class_index)

    def notices(self) -> list[Notice]:
        """Return what is to be told of drifts that came or went."""
        changes = [] if self._drift is None else self._drift.changes()
        return [
            Notice(
                "drift.detected" if change.detected else "drift.cleared",
                {"signal": change.signal, "exit": change.exit, **change.figures},
            )
            for change in changes
        ]

    def figures(self) -> dict[str, Any]:
        """Return live against expected figures, for the metrics."""
        return {} if self._drift is None else self._drift.figures()
