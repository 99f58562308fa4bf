"""A Case: everything about one workload that a lever may change, and nothing about months or draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bytebound.documents.work import Serve

if TYPE_CHECKING:
    from collections.abc import Callable

    from bytebound.documents.device import Machine
    from bytebound.documents.fleet import Objective
    from bytebound.documents.work import Train
    from bytebound.predict.estimate import Setting


@dataclass(frozen=True, slots=True)
class Case:
    """One workload on one kind of device.

    Args:
        work: the request at today's context; its batch is chosen by the audit up to ``batch_limit``.
        shared_prefix, reused_context: share of the prompt other requests, or earlier turns, have in common.
        roadmap: machines of the roadmap this workload could move to, with the month each becomes available.
        added_devices: devices bought on top of the pool's plan.
        available_month: month from which a changed device is there (0: now).
    """

    kind: str
    setting: Setting
    work: Serve | Train
    objective: Objective
    batch_limit: int
    shared_prefix: float = 0.0
    reused_context: float = 0.0
    roadmap: tuple[tuple[Machine, int], ...] = ()
    added_devices: int = 0
    available_month: int = 0

    @property
    def devices_per_replica(self) -> int:
        """Devices one replica takes."""
        degrees = (self.work.tp, self.work.pp, self.work.dp, getattr(self.work, "cp", 1))
        product = 1
        for degree in degrees:
            product *= int(degree)
        return product

    @property
    def serve(self) -> Serve | None:
        """The request where it is one of serving."""
        return self.work if isinstance(self.work, Serve) else None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a lever cannot help here."""

    reason: str


@dataclass(frozen=True, slots=True)
class Today:
    """Today's numbers of a case at its best batch, for the rules: shares of the request's time and of a step's bytes."""

    batch: float
    kv_byte_share: float
    weight_time_share: float
    compute_time_share: float
    capacity_limited: bool
    ridge_tokens: float
    prefill_time_share: float


def no_caution(case: Case, now: Today) -> str:
    """Return nothing: the lever may be recommended as the ledger predicts it."""
    del case, now
    return ""


@dataclass(frozen=True, slots=True)
class Lever:
    """A lever: its function, what it costs in quality, and where its formula or effect is published.

    ``caution`` says why it must be proven before anyone recommends it in a case, or nothing.
    """

    name: str
    title: str
    apply: Callable[[Case, Today], Case | Refusal]
    quality_note: str
    quality: str
    source: str
    kinds: tuple[str, ...] = ("serve", "edge")
    caution: Callable[[Case, Today], str] = no_caution
