"""What kernels and engines attain: published shares and floors, corrected by what was fitted to measurements.

Every share is ``σ(log-odds of the published share + Σ offsets)``, every time ``published × exp(Σ offsets)``, so a correction
can be large and still leave a share between 0 and 1 and a floor above 0. ``terms`` says which offsets add up; the fit uses
the same function, so what is fitted is what is predicted with.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from bytebound.facts.calibration import offsets
from bytebound.facts.efficiency import OPERATORS, efficiency
from bytebound.facts.engines import find_engine
from bytebound.facts.formats import FORMS
from bytebound.ledger.ledger import CLASS_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from bytebound.facts.calibration import Key, Offset

FORMED = frozenset({"gemm", "expert", "attention-decode"})
"""Operators whose kernels differ by weight form (for attention: by the form of the cache)."""
CLEAR = 1e-3
"""Shares are kept this far from 0 and 1."""
HOST_QUANTITIES = (
    "host_s_per_step",
    "host_s_per_sequence",
    "host_s_per_request",
    "launch_s_decode",
    "launch_s_prefill",
)
EAGER = frozenset({"transformers", "deepspeed-mii", "deepspeed"})
"""Engines that start every kernel of a decode step from Python; the others replay a recorded graph or call from C++."""
PRIOR_LAUNCH_S = {"eager": 8e-6, "graph": 3e-7, "prefill": 6e-6}
"""Host time per kernel before fitting (assumed): a PyTorch operator takes 5 to 10 us to start, a graph node a fraction of one."""
PRIOR_S_PER_SEQUENCE = 1e-5
"""Host time per sequence and step before fitting: sampling, scheduling and detokenising one token (assumed)."""


@dataclass(frozen=True, slots=True)
class Attained:
    """Shares (classes, forms), floors (classes,) [s], the share of a link, and host times [s]."""

    compute_share: NDArray[np.float64]
    memory_share: NDArray[np.float64]
    floor_s: NDArray[np.float64]
    link_share: float
    host_s_per_step: float
    host_s_per_sequence: float
    host_s_per_request: float
    launch_s_decode: float
    launch_s_prefill: float


def hardware(kind: str) -> str:
    """Return which kernels a device of ``kind`` runs: ``gpu``, ``apple``, ``cpu`` or ``npu``."""
    return {"gpu": "gpu", "apple-soc": "apple", "cpu": "cpu"}.get(kind, "npu")


def terms(
    family: str, kind: str, engine: str, operator: str, quantity: str, *, form: str = FORMS[0], era: str = ""
) -> tuple[Key, ...]:
    """Return the keys of the offsets that correct one share or floor; a key without a fitted row counts 0."""
    pool = efficiency(family, kind).pool
    keys: list[Key] = [(pool, operator, quantity), (family, operator, quantity)]
    if operator != "collective" or quantity == "floor_s":
        keys += engine_terms(engine, operator, quantity, era)
    if operator in FORMED and form != FORMS[0] and quantity != "floor_s":
        keys += [(f"form:{form}", operator, quantity), (f"form:{form}:{hardware(kind)}", operator, quantity)]
    return tuple(keys)


def engine_terms(engine: str, operator: str, quantity: str, era: str) -> tuple[Key, ...]:
    """Return the keys of an engine's offsets: of engines like it, its own, and where it is of an earlier era one more."""
    like = ENGINE_POOLS.get(engine, "")
    keys = [(f"engines:{like}", operator, quantity)] if like else []
    keys.append((f"engine:{engine}", operator, quantity))
    if era:
        keys.append((f"engine:{engine}@{era}", operator, quantity))
    return tuple(keys)


def era_of(date: str, version: str = "") -> str:
    """Return the era of an engine measured on ``date``: the year up to 2024, empty (today's) after it or not stated.

    Where the source says that it does not know the engine's version, its settings are as unknown: ``unstated``.
    """
    if version == UNSTATED:
        return "unstated"
    return date[:4] if date and date[:4] <= LAST_ERA else ""


UNSTATED = "not in the file"
"""What a source without the engine's version has in its place."""


ENGINE_POOLS = {
    "vllm": "serving", "sglang": "serving", "tensorrt-llm": "serving", "tgi": "serving", "lmdeploy": "serving",
    "deepspeed": "serving", "llama.cpp": "local", "mlx": "local", "exllama": "local", "gpt-fast": "local",
    "tinychat": "local", "mlc": "local",
}  # fmt: skip
"""Engine -> engines like it, whose common offsets it takes where it has few rows of its own."""
LAST_ERA = "2024"
"""Engines of this year and before have offsets of their own year: kernels and schedulers changed yearly."""


def published(family: str, kind: str, operator: str, quantity: str) -> float:
    """Return the published (or assumed) share or floor of a family; 1 and 0 where the quantity has no meaning."""
    if quantity not in OPERATORS.get(operator, ()):
        return 0.0 if quantity == "floor_s" else 1.0
    return efficiency(family, kind).of(operator, quantity).value


def host_prior(engine: str, quantity: str) -> float:
    """Return an engine's host time before fitting [s]."""
    if quantity == "host_s_per_sequence":
        return PRIOR_S_PER_SEQUENCE
    if quantity.startswith("launch_s"):
        return PRIOR_LAUNCH_S["prefill" if quantity.endswith("prefill") else "eager" if engine in EAGER else "graph"]
    found = find_engine(engine)
    return found.host_s_per_step if quantity == "host_s_per_step" else found.host_s_per_request


def attained(
    family: str, kind: str, engine: str, fitted: Mapping[Key, Offset] | None = None, era: str = ""
) -> Attained:
    """Return what ``engine`` attains on devices of ``family``.

    Args:
        family: of the device.
        kind: of the device.
        engine: our engine name.
        fitted: offsets to use; None: the shipped ones.
        era: of the engine, see ``era_of``.
    """
    return _shipped(family, kind, engine, era) if fitted is None else _attained(family, kind, engine, fitted, era)


@lru_cache(maxsize=512)
def _shipped(family: str, kind: str, engine: str, era: str) -> Attained:
    return _attained(family, kind, engine, offsets(), era)


def _attained(family: str, kind: str, engine: str, fitted: Mapping[Key, Offset], era: str) -> Attained:
    def offset(keys: tuple[Key, ...]) -> float:
        return sum(fitted[key].offset for key in keys if key in fitted)

    def share(operator: str, quantity: str, form: str) -> float:
        base = published(family, kind, operator, quantity)
        if base >= 1:
            return 1.0
        return corrected_share(base, offset(terms(family, kind, engine, operator, quantity, form=form, era=era)))

    def floor(operator: str) -> float:
        return float(published(family, kind, operator, "floor_s")
                     * np.exp(offset(terms(family, kind, engine, operator, "floor_s", era=era))))  # fmt: skip

    def host(quantity: str) -> float:
        return float(host_prior(engine, quantity) * np.exp(offset(engine_terms(engine, "step", quantity, era))))

    def table(quantity: str) -> NDArray[np.float64]:
        return np.array([[share(operator, quantity, form) for form in FORMS] for operator in CLASS_NAMES])

    return Attained(
        compute_share=table("compute_share"),
        memory_share=table("bandwidth_share"),
        floor_s=np.array([floor(operator) for operator in CLASS_NAMES]),
        link_share=share("collective", "link_share", FORMS[0]),
        host_s_per_step=host("host_s_per_step"),
        host_s_per_sequence=host("host_s_per_sequence"),
        host_s_per_request=host("host_s_per_request"),
        launch_s_decode=host("launch_s_decode"),
        launch_s_prefill=host("launch_s_prefill"),
    )


def corrected_share(base: float, offset: float) -> float:
    """Return the share ``base`` moved by ``offset`` in log-odds."""
    odds = np.log(np.clip(base, CLEAR, 1 - CLEAR) / (1 - np.clip(base, CLEAR, 1 - CLEAR))) + offset
    return float(np.clip(1 / (1 + np.exp(-odds)), CLEAR, 1 - CLEAR))
