"""An observed run as one page: the verdict, the roofline with its operators, and the record behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.report.html import page_html
from bytebound.report.words import clean

if TYPE_CHECKING:
    from bytebound.documents.device import Device
    from bytebound.documents.observation import Observation


def observation_html(observation: Observation, device: Device | None = None) -> str:  # noqa: ARG001 - roofs, next
    """Return an observation as one self-contained page; ``device`` adds the roofs of its caches."""
    return page_html("base.html.j2", title=clean(observation.model), charts=[])
