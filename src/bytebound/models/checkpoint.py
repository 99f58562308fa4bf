"""Lay the tensors a checkpoint really stores over the architecture its config describes, and check that they agree.

Both come in as lists: *slots* are the tensors the architecture expects, *pieces* those the files hold. A piece claims a
slot by name and shape. What is left must agree layer by layer in its number of values (fused or split projections);
anything else is an error that names the tensor.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bytebound.documents.architecture import Block, Conv, Embedding, Linear, Norm, Operator, Parameter, Tower
from bytebound.errors import DocumentError
from bytebound.facts.formats import find_format

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_INDEX = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")

SHOWN = 3
"""Tensors that a message names."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor of a checkpoint.

    Args:
        format: name in ``facts.formats``; empty when the tensor is packed and only the config tells what its bytes mean.
        bytes: bytes of its data, for packed ones with scales and zero points.
        packed: bytes of the packed values alone (0: not packed).
    """

    name: str
    shape: tuple[int, ...]
    format: str
    bytes: int
    packed: int = 0

    @property
    def elements(self) -> int:
        """Values, for tensors that are not packed."""
        return math.prod(self.shape)


@dataclass(slots=True)
class Slot:
    """One tensor the architecture expects, and the pieces that claimed it."""

    name: str
    part: str
    shape: tuple[int, ...]
    copies: int
    tied: bool
    optional: bool
    stored: str
    owner: tuple[int, int, int]
    pieces: list[Piece] = field(default_factory=list)

    @property
    def elements(self) -> int:
        """Values of all copies."""
        return math.prod(self.shape) * self.copies

    @property
    def full(self) -> bool:
        """Whether every copy has its piece."""
        return any(self._whole(piece) for piece in self.pieces) or len(self.pieces) >= self.copies

    def _whole(self, piece: Piece) -> bool:
        return bool(piece.packed) or _thin(piece.shape) == _thin((self.copies, *self.shape))

    def takes(self, piece: Piece) -> bool:
        """Tell whether the piece has this slot's shape, alone or with all copies stacked."""
        if self.full:
            return False
        if piece.packed:
            each = math.prod(self.shape) * find_format(self.stored).value_bits / 8
            return piece.packed in (math.ceil(each), math.ceil(each * self.copies))
        return _thin(piece.shape) in (_thin(self.shape), _thin((self.copies, *self.shape)))


def _thin(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape without axes of length one, which files drop and add."""
    return tuple(size for size in shape if size != 1)


def expand(towers: Iterable[Tower]) -> list[Tower]:
    """Return the towers with every repeated block written out."""
    found = []
    for tower in towers:
        blocks = [
            Block(block.name.replace("{}", str(index), 1), block.operators)
            for block in tower.blocks
            for index in range(block.repeat)
        ]
        found.append(replace(tower, blocks=tuple(blocks)))
    return found


def slots_of(towers: Sequence[Tower]) -> list[Slot]:
    """Return every tensor the towers expect, in order."""
    found = []
    for at, tower in enumerate(towers):
        for row, block in enumerate(tower.blocks):
            for column, operator in enumerate(block.operators):
                for tensor in operator.tensors():
                    part = tensor.name.rpartition(".")[2] if not isinstance(operator, Parameter) else "value"
                    found.append(
                        Slot(
                            name=block.name + tensor.name,
                            part=part,
                            shape=tensor.shape,
                            copies=tensor.copies,
                            tied=tensor.tied,
                            optional=tower.kind == "draft",
                            stored=tensor.stored,
                            owner=(at, row, column),
                        )
                    )
    return found


def layer_of(name: str) -> int:
    """Return the first number in a dotted name, -1 where there is none."""
    found = _INDEX.search(name)
    return int(found[1]) if found else -1


@dataclass(frozen=True, slots=True)
class Rules:
    """What one kind of checkpoint allows.

    Args:
        names: names the architecture may give a piece, best first.
        extra: pieces that no operator expects and that count as parameters of their own.
        ignored: pieces that are buffers: masks, position ids, rotary frequencies.
        absent: slots that such files leave out, whose operators are then dropped.
        strict: whether a piece with a slot's name must have its shape.
        place: the file, for messages.
    """

    names: Callable[[Piece], Iterable[str]]
    extra: re.Pattern[str]
    ignored: re.Pattern[str]
    absent: re.Pattern[str]
    strict: bool
    place: str


@dataclass(frozen=True, slots=True)
class Settled:
    """The towers with the storage the files have, and what should be said about it."""

    towers: list[Tower]
    notes: tuple[str, ...]


def settle(towers: Sequence[Tower], pieces: Sequence[Piece], rules: Rules) -> Settled:
    """Return the towers stored as the pieces are.

    Raises:
        DocumentError: a tensor is missing, extra, or has another shape than the config describes.
    """
    towers = expand(towers)
    slots = slots_of(towers)
    left = _claim(slots, [piece for piece in pieces if not rules.ignored.search(piece.name)], rules)
    extras = [piece for piece in left if rules.extra.search(piece.name)]
    left = [piece for piece in left if not rules.extra.search(piece.name)]
    notes = []
    twice = [slot.name for slot in slots if slot.tied and slot.pieces]
    if twice:
        notes.append(f"{twice[0]} is stored although it is tied to the embedding")
    open_slots = [slot for slot in slots if not slot.full and not (slot.tied and slot.part == "weight")]
    dropped = {slot.owner for slot in open_slots if rules.absent.search(slot.name)}
    open_slots = [slot for slot in open_slots if slot.owner not in dropped]
    if dropped:
        missing = next(slot.name for slot in slots if slot.owner in dropped)
        notes.append(f"the checkpoint leaves out {missing}")
    drafts = {slot.owner[0] for slot in slots if slot.optional}
    unused = {at for at in drafts if not any(slot.pieces for slot in slots if slot.owner[0] == at)}
    if unused:
        notes.append("the checkpoint holds no multi-token-prediction layers")
        open_slots = [slot for slot in open_slots if slot.owner[0] not in unused]
    _balance(open_slots, left, rules)
    formats = _formats(slots)
    found = [
        replace(tower, blocks=_blocks(tower, at, formats, dropped))
        for at, tower in enumerate(towers)
        if at not in unused
    ]
    found = [_tie(tower) for tower in found]
    ignored = len(pieces) - sum(1 for piece in pieces if not rules.ignored.search(piece.name))
    if ignored:
        notes.append(f"{ignored} buffers of the checkpoint are not counted")
    return Settled(_append(found, extras), tuple(notes))


def _claim(slots: Sequence[Slot], pieces: Sequence[Piece], rules: Rules) -> list[Piece]:
    """Give every piece that names a slot to it; return the rest."""
    table: dict[str, list[Slot]] = defaultdict(list)
    for slot in slots:
        table[slot.name].append(slot)
    left = []
    for piece in pieces:
        named = [slot for name in rules.names(piece) for slot in table.get(name, ())]
        taker = next((slot for slot in named if slot.takes(piece)), None)
        if taker is not None:
            taker.pieces.append(piece)
            continue
        free = [slot for slot in named if not slot.pieces]
        if rules.strict and free and not piece.packed and not any(piece.elements == slot.elements for slot in free):
            shapes = " or ".join(sorted({str(list(slot.shape)) for slot in free}))
            raise DocumentError(
                f"the tensor {piece.name!r} has shape {list(piece.shape)} and the model's description makes it {shapes}",
                place=rules.place,
                mend="the file is damaged, or its metadata belongs to another model",
            )
        left.append(piece)
    return left


def _balance(slots: Sequence[Slot], pieces: Sequence[Piece], rules: Rules) -> None:
    """Check that what is left agrees layer by layer, and give its pieces to the slots of the same part."""
    keys = sorted({(layer_of(slot.name), slot.part == "bias") for slot in slots})
    keys = sorted({*keys, *((layer_of(piece.name), piece.name.endswith("bias")) for piece in pieces)})
    for layer, bias in keys:
        want = [slot for slot in slots if (layer_of(slot.name), slot.part == "bias") == (layer, bias)]
        have = [piece for piece in pieces if (layer_of(piece.name), piece.name.endswith("bias")) == (layer, bias)]
        missing = sum(slot.elements - sum(piece.elements for piece in slot.pieces) for slot in want)
        bits = find_format(want[0].stored).value_bits if want else 8
        stored = sum(int(piece.packed * 8 / bits) if piece.packed else piece.elements for piece in have)
        if missing != stored or bool(want) != bool(have):
            raise _disagree(want, have, rules)
        for slot in want:
            slot.pieces.extend(have)


def _disagree(want: Sequence[Slot], have: Sequence[Piece], rules: Rules) -> DocumentError:
    def some(names: Sequence[str]) -> str:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return ", ".join(repr(name) for name in names[:SHOWN]) + more

    said = []
    if want:
        said.append(f"it lacks {some([slot.name for slot in want])}")
    if have:
        said.append(
            f"it holds {some([f'{piece.name} {list(piece.shape)}' for piece in have])} that the model does not have"
        )
    message = f"the checkpoint and the model's description disagree: {'; '.join(said)}"
    return DocumentError(message, place=rules.place, mend="use the description that belongs to these files")


def _formats(slots: Sequence[Slot]) -> dict[tuple[int, int, int], dict[str, str]]:
    """Return the storage of every claimed part, by the operator that owns it; the commonest one where pieces differ."""
    found: dict[tuple[int, int, int], dict[str, str]] = defaultdict(dict)
    for slot in slots:
        weights: Counter[str] = Counter()
        for piece in slot.pieces:
            if piece.format:
                weights[piece.format] += piece.bytes
        if weights:
            found[slot.owner][slot.part] = weights.most_common(1)[0][0]
    return found


def _blocks(
    tower: Tower,
    at: int,
    formats: dict[tuple[int, int, int], dict[str, str]],
    dropped: set[tuple[int, int, int]],
) -> tuple[Block, ...]:
    blocks = []
    for row, block in enumerate(tower.blocks):
        operators = tuple(
            _stored(operator, formats.get((at, row, column), {}))
            for column, operator in enumerate(block.operators)
            if (at, row, column) not in dropped
        )
        blocks.append(Block(block.name, operators, block.repeat))
    return tuple(blocks)


def _stored(operator: Operator, formats: dict[str, str]) -> Operator:
    if not formats:
        return operator
    if isinstance(operator, (Linear, Conv)):
        weight = formats.get("weight", operator.stored)
        return replace(operator, stored=weight, bias_stored=formats.get("bias", operator.bias_stored))
    found = next(iter(formats.values()))
    return replace(operator, stored=found) if isinstance(operator, (Embedding, Norm, Parameter)) else operator


def _tie(tower: Tower) -> Tower:
    """Return the tower with tied matrices stored as the first embedding of their shape."""
    tables = {
        (operator.rows, operator.width): operator.stored
        for block in reversed(tower.blocks)
        for operator in block.operators
        if isinstance(operator, Embedding)
    }

    def tie(operator: Operator) -> Operator:
        if isinstance(operator, Linear) and operator.tied:
            return replace(operator, stored=tables.get((operator.outputs, operator.inputs), operator.stored))
        return operator

    return replace(
        tower, blocks=tuple(replace(block, operators=tuple(map(tie, block.operators))) for block in tower.blocks)
    )


def _append(towers: list[Tower], extras: Sequence[Piece]) -> list[Tower]:
    """Return the towers with the extra pieces as parameters of the first."""
    if not extras or not towers:
        return towers
    added = tuple(Parameter(piece.name, piece.shape, stored=piece.format) for piece in extras)
    return [replace(towers[0], blocks=(*towers[0].blocks, Block("", added))), *towers[1:]]
