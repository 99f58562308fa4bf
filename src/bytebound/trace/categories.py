"""Parts storages play, told after the run: parameters, gradients, optimizer states, activations, temporaries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bytebound.trace.recording import BEFORE

if TYPE_CHECKING:
    import numpy.typing as npt

    from bytebound.trace.recording import Recording

CATEGORY = {"parameter": 0, "buffer": 0, "gradient": 1, "optimizer": 2, "activation": 3, "temporary": 4}
"""Column of each role, in the order of ``documents.trace.CATEGORIES``."""


def label(recording: Recording) -> None:
    """Give a role to every storage that has none.

    An activation is made in a forward phase (or was there before it: the step's inputs) and is alive when the backward phase
    that follows begins; whatever is recomputed in backward is a temporary.
    """
    backward = [
        index
        for index, event in enumerate(recording.events)
        if event.phase == "backward" and (index == 0 or recording.events[index - 1].instance != event.instance)
    ]
    starts = np.array([*backward, len(recording.events)])
    for storage in recording.storages:
        if storage.role:
            continue
        begun = starts[np.searchsorted(starts, storage.born, side="right")] if storage.born < starts[-1] else starts[-1]
        kept = storage.born == BEFORE or (
            storage.phase == "forward"
            and begun < len(recording.events)
            and (storage.died is None or storage.died > begun)
        )
        storage.role = "activation" if kept else "temporary"


def held(recording: Recording) -> npt.NDArray[np.float64]:
    """Return bytes alive after each operator, (operators, 5 categories)."""
    count = len(recording.events)
    change = np.zeros((count + 1, 5))
    columns = np.array([CATEGORY[storage.role] for storage in recording.storages], dtype=int)
    size = np.array([storage.bytes for storage in recording.storages], dtype=float)
    born = np.array([max(storage.born, 0) for storage in recording.storages], dtype=int)
    died = np.array(
        [count if storage.died is None else max(storage.died, 0) for storage in recording.storages], dtype=int
    )
    np.add.at(change, (np.minimum(born, count), columns), size)
    np.add.at(change, (np.minimum(np.maximum(died, born), count), columns), -size)
    result: npt.NDArray[np.float64] = np.cumsum(change, axis=0)[:count]
    return result
