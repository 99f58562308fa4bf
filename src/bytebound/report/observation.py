"""An observed run in the terminal: where it stands on the measured roofline, and how far the prediction was off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from bytebound.report.page import draw, heading
from bytebound.report.words import clean

if TYPE_CHECKING:
    from bytebound.documents.observation import Observation
    from bytebound.report.page import Page


def observation_text(observation: Observation, page: Page) -> str:
    """Return an observation for a terminal of ``page``'s width."""
    parts = [heading(f"bytebound observe · {clean(observation.model)} on {clean(observation.machine)}")]
    parts += [Text(clean(phase.sentence)) for phase in observation.phases]
    return draw(parts, page)
