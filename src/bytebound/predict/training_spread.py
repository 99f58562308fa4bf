"""How far a predicted step time may be off: the uncertainty of every offset, times how much of the step depends on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.facts.calibration import Offset
from bytebound.facts.training_shares import FACTOR, NOISE, NORMAL_FACTOR, prior_sd, training_offsets
from bytebound.predict.training_attained import attained_in_training, training_keys
from bytebound.predict.training_parts import step_parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from bytebound.documents.device import Device
    from bytebound.facts.calibration import Key
    from bytebound.ledger.training import TrainingLedger
    from bytebound.predict.roofline import Ceilings

    Array = NDArray[Any]

NUDGE = 1e-3
UNKNOWN = Offset(0.0, 0.0, 0, "", "")


def log_step(
    ledger: TrainingLedger,
    c: Ceilings,
    *,
    device: Device,
    framework: str,
    narrow: str,
    fitted: Mapping[Key, Offset] | None = None,
) -> Array:
    """Return the logarithm of the seconds of one step, (requests,); ``fitted``: offsets to use, None: the shipped ones."""
    parts, _ = step_parts(ledger, c, attained_in_training(device, framework, narrow, fitted))
    return np.asarray(np.log(np.asarray(sum(parts.values()))))


def slopes(
    ledger: TrainingLedger, c: Ceilings, *, device: Device, framework: str, narrow: str, fitted: Mapping[Key, Offset]
) -> dict[tuple[str, str], Array]:
    """Return the derivative of log step time by the offset of every operator's quantity, (requests,) each."""

    def told(offsets: Mapping[Key, Offset]) -> Array:
        return log_step(ledger, c, device=device, framework=framework, narrow=narrow, fitted=offsets)

    before = told(fitted)
    return {
        one: (told({**fitted, keys[0]: Offset(fitted.get(keys[0], UNKNOWN).offset + NUDGE, 0.0, 0, "", "")}) - before) / NUDGE
        for one, keys in training_keys(device, framework, narrow).items()
    }  # fmt: skip


def log_sd(
    ledger: TrainingLedger, c: Ceilings, *, device: Device, framework: str, narrow: str, fitted: Mapping[Key, Offset]
) -> Array:
    """Return the standard deviation of the logarithm of the step time, (requests,).

    Posterior predictive of a linearised model: offsets vary independently by their fitted width (their prior one where no fitted run
    tells them: a family, framework, number format or kind of layer nobody published), and ``NOISE`` is what no offset describes.
    """
    keys = training_keys(device, framework, narrow)
    variance = {
        one: sum(fitted[key].sd ** 2 if key in fitted else prior_sd(key) ** 2 for key in own)
        for one, own in keys.items()
    }
    found = slopes(ledger, c, device=device, framework=framework, narrow=narrow, fitted=fitted)
    return np.asarray(np.sqrt(NOISE**2 + sum(variance[one] * found[one] ** 2 for one in keys)))


def step_spread(
    ledger: TrainingLedger,
    c: Ceilings,
    *,
    device: Device,
    framework: str,
    narrow: str,
    fitted: Mapping[Key, Offset] | None = None,
) -> Array:
    """Return the factor of the 80 % interval of a step time, either way, (requests,)."""
    known = training_offsets() if fitted is None else fitted
    factor = known[FACTOR].offset if FACTOR in known else NORMAL_FACTOR
    return np.exp(factor * log_sd(ledger, c, device=device, framework=framework, narrow=narrow, fitted=known))
