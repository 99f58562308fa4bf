"""What devices a plan may choose from, how many there are, and what a node of each is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from bytebound.errors import ByteboundError, RequestError
from bytebound.facts.catalogue import load_catalogue
from bytebound.facts.devices import is_file_name
from bytebound.facts.machines import HERE, find_machine
from bytebound.facts.prices import rental
from bytebound.plan.space import node_size

if TYPE_CHECKING:
    from bytebound.documents.device import Machine
    from bytebound.documents.plan import PlanRequest

ALL = "all"
LEAST_BYTES = 16e9
"""Cards under this are not planned for unless they are named."""
PRICED_SINCE = "2025-11"
"""A card whose newest offer is older than a year has left the market (a year before the newest of our price snapshots)."""


@dataclass(frozen=True, slots=True)
class Supply:
    """One kind of device: ``machine`` is one node of it; ``count`` how many there are, None: any number can be rented."""

    machine: Machine
    count: int | None = None

    @property
    def node(self) -> int:
        """Devices of a node."""
        return self.machine.per_node

    def nodes(self, count: int) -> Machine:
        """Return so many nodes."""
        return self.machine.model_copy(update={"nodes": count})

    def copy_name(self, devices: int) -> str:
        """Return how ``estimate --on`` names what one copy of so many devices runs on."""
        device = self.machine.asked or self.machine.device.id
        if self.machine.asked:
            return device
        return f"{devices}x {device}" if devices <= self.node else f"{devices // self.node}x({self.node}x {device})"


@cache
def usual_devices() -> tuple[str, ...]:
    """Return the devices planned for when none is named: rented GPUs, no GeForce, with bf16 matrix units and a price of the last year."""
    return tuple(
        name for name in sorted(load_catalogue().prices)
        if (price := rental(name)) is not None and price.when >= PRICED_SINCE and _serves(name)
    )  # fmt: skip


def _serves(name: str) -> bool:
    device = load_catalogue().device(name)
    return (
        device.kind == "gpu" and "bf16" in device.flop_per_s and "geforce" not in device.name.lower()
        and device.memory_bytes.value >= LEAST_BYTES and device.status == "shipping"
    )  # fmt: skip


def supplies(request: PlanRequest) -> tuple[Supply, ...]:
    """Return what to choose from: the pool's devices, the named ones, or the usual ones.

    Raises:
        RequestError: a pool and devices are both named, or a device twice.
        UnknownNameError, QuantityError, DocumentError: a name is not understood.
    """
    if request.pool:
        if request.devices:
            raise RequestError(
                "a pool and devices are both named", place="pool", mend="name the devices in the pool alone"
            )
        found = tuple(_pooled(part) for part in request.pool.split(","))
    else:
        names = tuple(part.strip() for name in request.devices for part in name.split(",")) or usual_devices()
        if ALL in names:
            names = _every()
        found = tuple(_one(name) for name in dict.fromkeys(names))
    ids = [each.machine.asked or each.machine.device.id for each in found]
    twice = next((name for name in ids if ids.count(name) > 1), None)
    if twice is not None:
        raise RequestError(
            f"{twice} is named twice", place="pool" if request.pool else "devices", mend="name each device once"
        )
    return found


def _every() -> tuple[str, ...]:
    """Return every device of the catalogue with a price that we can predict for."""
    found = []
    for name in sorted(load_catalogue().prices):
        try:
            load_catalogue().device(name)
        except ByteboundError:
            continue
        if rental(name) is not None:
            found.append(name)
    return tuple(found)


def _one(text: str) -> Supply:
    machine = find_machine(text, place="devices")
    stated = re.match(r"\s*[0-9]", text) is not None or text.lower() == HERE or is_file_name(text)
    node = node_size(machine, stated=stated)
    here = text.strip().lower() == HERE  # no catalogue knows its id: it stays what was asked for
    changed = {"per_node": node, "nodes": 1} | ({"asked": HERE} if here else {})
    return Supply(machine.model_copy(update=changed), machine.devices if here else None)


def _pooled(text: str) -> Supply:
    machine = find_machine(text.strip(), place="pool")
    node = machine.per_node if machine.nodes > 1 else min(node_size(machine, stated=False), machine.per_node)
    return Supply(machine.model_copy(update={"per_node": node, "nodes": 1}), machine.devices)
