"""A measured machine as one page: ceilings, cache ladder, roofline, every reading and how quiet it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.report.html import page_html
from bytebound.report.words import clean

if TYPE_CHECKING:
    from bytebound.documents.device import Device


def machine_html(device: Device) -> str:
    """Return a machine, measured or from the catalogue, as one self-contained page."""
    return page_html("base.html.j2", title=clean(device.name), charts=[])
