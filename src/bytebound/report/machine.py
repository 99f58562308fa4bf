"""A measured machine in the terminal: its ceilings, the cache ladder as a picture, and how far to trust them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.report.facts import device_text

if TYPE_CHECKING:
    from bytebound.documents.device import Device
    from bytebound.report.page import Page


def machine_text(device: Device, page: Page, *, saved: str = "") -> str:
    """Return a machine for a terminal; ``saved`` says where its document was written."""
    return device_text(device, page) + (f"\nsaved {saved}\n" if saved else "")
