"""Record: one line of the history, what was kept and when, without the document itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Record:
    """One kept document.

    ``kind`` is measurement, observation, run or calibration; ``when`` the document's own ISO time; ``machine`` the
    device id it was taken on and ``host`` the processor and its usable cores (empty where the document does not say);
    ``title`` one line for lists; ``schema`` the document's format and version.
    """

    id: str
    kind: str
    when: str
    machine: str
    host: str
    title: str
    schema: str
