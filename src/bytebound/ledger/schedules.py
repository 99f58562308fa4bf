"""Pipeline schedules: which layers a stage holds, how many micro-batches it keeps, and how long it waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.ledger.training_plan import microbatches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.documents.work import Train
    from bytebound.ledger.table import OpTable

    Array = NDArray[Any]

STAGES = 3
"""Stages that can be the fullest: the first (most micro-batches, embedding), the second (one layer more where the ends have fewer),
and the last (head and loss). Arrays of this module have them as their first axis; with one stage all three are the same."""

FRONT_SHARE = 4
"""Dense layers of a mixture of experts that are at most one in so many lie in front (``first_k_dense_replace`` of DeepSeek,
Kimi and GLM configurations); more of them alternate with the others (Llama 4, Jamba)."""


def stage_layers(work: Train, layers: float) -> Array:
    """Return layers of the first, second and last stage, (3, *requests).

    Layers that do not divide: the ends count embedding and head as a layer each where that makes them divide
    (``account_for_embedding_in_pipeline_split`` of Megatron-LM), else every stage rounds up.
    """
    pp = np.broadcast_to(np.asarray(work.pp, dtype=float), work.shape)
    even = np.ceil(layers / pp)
    padded = (layers % pp != 0) & ((layers + 2) % pp == 0)
    middle = np.where(padded, (layers + 2) / pp, even)
    ends = np.where(padded, middle - 1, even)
    return np.stack([ends, np.where(pp > 2, middle, ends), ends])


def is_last(work: Train) -> Array:
    """Return whether the first, second and last stage hold the head, (3, *requests); ZB-V folds it back onto the first."""
    pp = np.broadcast_to(np.asarray(work.pp), work.shape)
    folded = np.full_like(pp, work.schedule == "zbv", dtype=bool)
    return np.stack([(pp <= 1) | folded, (pp <= 2) & ~folded | (pp <= 1), (pp <= 1) | ~folded])


def rows_held(repeat: Array, layers: float, stage: Array, *, front: float = 0.0) -> Array:
    """Return how often each row occurs on each stage, (rows, 3, *requests).

    Args:
        repeat: occurrences of each row in the whole model, (rows,).
        layers: of the whole model.
        stage: layers of each stage, (3, *requests).
        front: layers in front that are unlike the others (0: all kinds alternate, every stage has its share).
    """
    rows = repeat.reshape(-1, *([1] * stage.ndim))
    share = rows * np.minimum(stage / layers, 1.0)
    if not front:
        return np.asarray(share)
    ahead = np.minimum(front, stage[0])
    unlike = np.stack([ahead, *np.minimum(np.maximum(front - stage[0], 0.0), stage[1:])])
    only = np.where(rows == front, unlike, np.where(rows == layers - front, stage - unlike, share))
    return np.asarray(np.where(stage >= layers, rows, only))


def front_layers(table: OpTable) -> float:
    """Return the dense layers in front of a mixture of experts, 0 where there are none or they alternate; ``FRONT_SHARE``."""
    p = table.products
    routed = float(p.repeat[p.copies > 1].max(initial=0.0))
    dense = table.layers - routed
    return dense if routed and 0 < dense * FRONT_SHARE <= table.layers else 0.0


def in_flight(work: Train) -> Array:
    """Return micro-batches whose activations the first, second and last stage keep at most, (3, *requests).

    Whole stages' worth, never more than there are micro-batches. 1F1B and ZB-1P: p - i; GPipe: all; interleaved:
    (2 (p - i - 1) + (v - 1) p + 1) / v, which is p (1 + (p - 1) / (p v)) on the first; ZB-V: p on every one. Sources: Narayanan
    et al. 2021 (arXiv 2104.04473) section 2.2; Korthikanti et al. 2022 (arXiv 2205.05198) section 4.2.3; Qi et al. 2024
    (arXiv 2405.15362) table 1.
    """
    pp, v = (np.asarray(x, dtype=float) for x in (work.pp, work.virtual_stages))
    many = microbatches(work)
    pp, v, many = (np.broadcast_to(x, work.shape) for x in (pp, v, many))
    place = np.stack([0 * pp, np.minimum(1.0, pp - 1), pp - 1])
    if work.schedule == "gpipe":
        return np.asarray(np.broadcast_to(many, place.shape))
    if work.schedule == "zbv":
        return np.asarray(np.broadcast_to(np.minimum(pp, many), place.shape))
    plain = pp - place
    dealt = (2 * (pp - place - 1) + (v - 1) * pp + 1) / v
    held = np.where((v > 1) & (pp > 1) & (work.schedule == "interleaved"), dealt, plain)
    return np.asarray(np.minimum(held, many))


def bubble_share(work: Train) -> Array:
    """Return the share of a step that a device waits for other stages, with equal stages, (*requests).

    (p - 1) / (m + p - 1) for 1F1B and GPipe; (p - 1) / (m v + p - 1) interleaved; (p - 1) / (3 (m + p - 1)) for ZB-1P;
    (p - 1) / (p - 1 + 6 m) for ZB-V. Sources: Narayanan et al. 2021 (arXiv 2104.04473) section 2.2; AMD Primus, projection
    documentation, table of schedules.
    """
    pp, v = (np.asarray(x, dtype=float) for x in (work.pp, work.virtual_stages))
    many = microbatches(work)
    if work.schedule == "zb1p":
        return np.asarray((pp - 1) / (3 * (many + pp - 1)))
    if work.schedule == "zbv":
        return np.asarray((pp - 1) / (pp - 1 + 6 * many))
    chunks = v if work.schedule == "interleaved" else 1.0
    return np.asarray((pp - 1) / (many * chunks + pp - 1))
