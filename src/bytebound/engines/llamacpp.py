"""llama.cpp in this process: steps of a GGUF model at a chosen depth, timed one by one.

The C interface is reached with ctypes in whichever package carries it (``xllamacpp`` or ``llama_cpp``). The layout of
its parameter struct changes between releases, so it is found from the struct's own default values, and an unknown
layout is an error, never a guess.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.errors import DocumentError, QuantityError, RequestError, UnfinishedError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PACKAGES = {"xllamacpp": "*.so", "llama_cpp": "lib/libllama.*"}
"""Package -> where its shared library lies."""
KV_TYPES = {"fp32": 0, "fp16": 1, "bf16": 30, "q8_0": 8, "q4_0": 2}
"""KV-cache dtype -> ggml type number. Source: ggml's public enum ggml_type."""
FLASH = {"auto": -1, "off": 0, "on": 1}
MOST_THREADS, MOST_TOKENS = 512, 2**31 - 1
"""Beyond these llama.cpp ends the whole process. Source: GGML_MAX_N_THREADS in ggml.h; positions are 32-bit."""
SPARE = 8
"""Tokens of context beyond those asked for."""
_WORDS = 128
_MINUS_ONE = 0xFFFFFFFF


class _Struct(ctypes.Structure):
    _fields_ = (("words", ctypes.c_uint32 * _WORDS),)


class _Batch(ctypes.Structure):
    _fields_ = (
        ("n_tokens", ctypes.c_int32), ("token", ctypes.POINTER(ctypes.c_int32)), ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)), ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))), ("logits", ctypes.POINTER(ctypes.c_int8)),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layout:
    """Word offsets of the context parameters that we set."""

    threads: int
    flash: int
    kv_type: int


@dataclass(frozen=True, slots=True)
class Library:
    """A loaded llama.cpp: where from, which version, what its processor code was built for."""

    handle: Any
    package: str
    version: str
    built_for: str
    layout: Layout


def find_layout(defaults: list[int]) -> Layout:
    """Return where the fields lie, from the default values of ``llama_context_params`` as 32-bit words.

    The struct begins with 512, 2048, 512, 1 (context, batch, micro-batch, sequences); threads are the first equal pair
    of 4; flash attention is the last of four −1; the KV types are the first pair of 1 (f16) after it.

    Raises:
        RequestError: the defaults do not look so.
    """
    if defaults[:4] == [512, 2048, 512, 1]:
        threads = next((i for i in range(4, 16) if defaults[i : i + 2] == [4, 4]), None)
        flash = next((i + 3 for i in range(4, 20) if defaults[i : i + 4] == [_MINUS_ONE] * 4), None)
        if threads is not None and flash is not None:
            kv = next((i for i in range(flash + 1, flash + 24) if defaults[i : i + 2] == [1, 1]), None)
            if kv is not None:
                return Layout(threads, flash, kv)
    raise RequestError(
        "this llama.cpp's context parameters are laid out in a way we do not know",
        place="llama.cpp",
        mend="install another xllamacpp release, or attach to a llama-server over HTTP instead",
    )


@cache
def load_llamacpp() -> Library:
    """Load llama.cpp from the first package that carries it.

    Raises:
        DocumentError: no such package is installed.
        RequestError: its interface is not the one we know.
    """
    for package, pattern in PACKAGES.items():
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        for path in sorted(Path(spec.origin).parent.glob(pattern)):
            handle = ctypes.CDLL(str(path))
            if hasattr(handle, "llama_decode"):
                return _prepare(handle, package)
    raise DocumentError(
        "llama.cpp is not installed",
        place="llama.cpp",
        mend="pip install xllamacpp, or attach to a running llama-server with its URL",
    )


def _prepare(handle: Any, package: str) -> Library:
    void, text, i32 = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "llama_backend_init": (None, []),
        "llama_log_set": (None, [void, void]),
        "llama_print_system_info": (text, []),
        "llama_model_default_params": (_Struct, []),
        "llama_context_default_params": (_Struct, []),
        "llama_model_load_from_file": (void, [text, _Struct]),
        "llama_model_free": (None, [void]),
        "llama_model_get_vocab": (void, [void]),
        "llama_vocab_n_tokens": (i32, [void]),
        "llama_init_from_model": (void, [void, _Struct]),
        "llama_free": (None, [void]),
        "llama_get_memory": (void, [void]),
        "llama_memory_seq_rm": (ctypes.c_bool, [void, i32, i32, i32]),
        "llama_batch_init": (_Batch, [i32, i32, i32]),
        "llama_batch_free": (None, [_Batch]),
        "llama_decode": (i32, [void, _Batch]),
        "llama_synchronize": (None, [void]),
        "llama_model_size": (ctypes.c_uint64, [void]),
        "llama_get_logits_ith": (ctypes.POINTER(ctypes.c_float), [void, i32]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(handle, name, None)
        if function is None:
            raise RequestError(
                f"this llama.cpp has no {name}", place=package, mend="install a release of 2025 or later"
            )
        function.restype, function.argtypes = result, arguments
    layout = find_layout(list(handle.llama_context_default_params().words))
    handle.llama_log_set(_SILENT, None)
    handle.llama_backend_init()
    distribution = {"llama_cpp": "llama-cpp-python"}.get(package, package)
    return Library(
        handle, package, importlib.metadata.version(distribution), handle.llama_print_system_info().decode(), layout
    )


_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_silent_log = _LOG(lambda _level, _text, _data: None)
_SILENT = ctypes.cast(_silent_log, ctypes.c_void_p)
"""llama.cpp writes its log to standard error; nothing of it is a result."""


@dataclass(frozen=True, slots=True)
class Session:
    """A model with a context of its own: ``fill`` puts every sequence at a depth, ``step`` decodes one token each."""

    library: Library
    model: Any
    context: Any
    vocabulary: int
    sequences: int
    micro_batch: int
    context_tokens: int

    def fill(self, depth: int, *, past: int = 0) -> None:
        """Put every sequence at ``depth`` tokens (of arbitrary ids), from nothing or from ``past`` tokens that are there."""
        self.trim(past)
        for sequence in range(self.sequences):
            for start in range(past, depth, self.micro_batch):
                count = min(self.micro_batch, depth - start)
                self.decode([(sequence, start + i) for i in range(count)], every=False)

    def step(self, depth: int) -> None:
        """Decode one token of every sequence at ``depth``; the depth is then restored, so that steps repeat."""
        self.decode([(sequence, depth) for sequence in range(self.sequences)], every=True)
        self.trim(depth)

    def prefill(self, tokens: int, past: int = 0, *, every: bool = False) -> None:
        """Pass ``tokens`` new tokens of the first sequence after ``past`` ones; the depth is then restored.

        Without ``every`` only the last token leaves the last layer's attention: its feed-forward and the head see one token, as
        llama.cpp does for prompts (``inp_out_ids`` in its graphs).
        """
        for start in range(0, tokens, self.micro_batch):
            count = min(self.micro_batch, tokens - start)
            self.decode([(0, past + start + i) for i in range(count)], every=every)
        self.trim(past)

    def logits(self) -> np.ndarray[Any, Any]:
        """Return the last token's logits, (vocabulary,)."""
        pointer = self.library.handle.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(pointer, (self.vocabulary,)).copy()

    def trim(self, depth: int) -> None:
        """Forget every sequence's tokens from ``depth`` on."""
        memory = self.library.handle.llama_get_memory(self.context)
        for sequence in range(self.sequences):
            if not self.library.handle.llama_memory_seq_rm(memory, sequence, depth, -1):
                raise UnfinishedError(
                    f"this model cannot go back to a depth of {depth} tokens: its state is recurrent",
                    place="llama.cpp",
                    mend="observe it behind a llama-server instead",
                )

    def decode(self, places: list[tuple[int, int]], *, every: bool, ids: Sequence[int] = ()) -> None:
        """Pass one token for each (sequence, position), of the given ``ids`` or arbitrary; logits of ``every`` one or the last."""
        handle = self.library.handle
        deepest = max(position for _, position in places)
        if deepest >= self.context_tokens + SPARE:  # llama.cpp would end the process
            raise QuantityError(
                f"a token at depth {deepest:,}, and the session was opened for {self.context_tokens:,}",
                place="llama.cpp",
                mend="open it with a larger context",
            )
        batch = handle.llama_batch_init(len(places), 0, 1)
        try:
            for i, (sequence, position) in enumerate(places):
                any_id = (7919 * (position + 1) + 104729 * sequence) % self.vocabulary
                batch.token[i] = ids[i] if ids else any_id
                batch.pos[i] = position
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = sequence
                batch.logits[i] = int(every or i == len(places) - 1)
            batch.n_tokens = len(places)
            failed = handle.llama_decode(self.context, batch)
            handle.llama_synchronize(self.context)
        finally:
            handle.llama_batch_free(batch)
        if failed:
            raise UnfinishedError(
                f"llama.cpp refused a batch of {len(places)} tokens (code {failed})",
                place="llama.cpp",
                mend="ask for a shorter context or a smaller batch",
            )


@contextmanager
def open_session(
    path: str | Path, *, context: int, threads: int, flash: str = "auto", kv: str = "fp16", sequences: int = 1,
    micro_batch: int = 512,
) -> Iterator[Session]:  # fmt: skip
    """Load the GGUF at ``path`` and give a session that can hold ``context`` tokens in each of ``sequences`` sequences.

    Args:
        path: a GGUF file.
        context: tokens per sequence.
        threads: threads for decoding and prefill.
        flash: flash attention ``on``, ``off`` or ``auto``, as llama.cpp chooses.
        kv: dtype of the KV cache, one of ``KV_TYPES``; quantized V needs flash attention.
        sequences: sequences decoded together.
        micro_batch: most tokens in one pass.

    Raises:
        UnknownNameError: no such KV dtype or flash setting.
        QuantityError: a number llama.cpp would not survive.
        DocumentError: no such file, or llama.cpp cannot load it.
        UnfinishedError: there is no memory for the context.
    """
    for kind, given, known in (("KV dtype", kv, KV_TYPES), ("flash setting", flash, FLASH)):
        if given not in known:
            raise UnknownNameError(kind, given, known, place="llama.cpp")
    _check_numbers(context=context, threads=threads, sequences=sequences, micro_batch=micro_batch)
    if not Path(path).is_file():
        raise DocumentError("no such file", place=str(path), mend="name a .gguf file")
    library = load_llamacpp()
    handle = library.handle
    model = handle.llama_model_load_from_file(str(path).encode(), handle.llama_model_default_params())
    if not model:
        raise DocumentError("llama.cpp cannot load this file", place=str(path), mend="check that the GGUF is whole")
    try:
        made = handle.llama_init_from_model(
            model, _parameters(library, context, threads, flash, kv, sequences, micro_batch)
        )
        if not made:
            raise UnfinishedError(
                f"llama.cpp made no context of {sequences:,} × {context:,} tokens with {kv} KV and flash attention {flash}",
                place=str(path),
                mend="ask for fewer tokens or sequences; a quantized KV cache needs flash attention",
            )
        try:
            vocabulary = handle.llama_vocab_n_tokens(handle.llama_model_get_vocab(model))
            yield Session(library, model, made, max(int(vocabulary), 1), sequences, micro_batch, context)
        finally:
            handle.llama_free(made)
    finally:
        handle.llama_model_free(model)


def _check_numbers(*, context: int, threads: int, sequences: int, micro_batch: int) -> None:
    most = {"threads": MOST_THREADS, "sequences": MOST_TOKENS, "micro_batch": MOST_TOKENS, "context": MOST_TOKENS}
    given = {"threads": threads, "sequences": sequences, "micro_batch": micro_batch, "context": context}
    for name, value in given.items():
        if not 1 <= value <= most[name]:
            raise QuantityError(f"{name} is {value:,}", place="llama.cpp", mend=f"give 1 to {most[name]:,}")
    if (context + SPARE) * sequences > MOST_TOKENS:
        raise QuantityError(
            f"{sequences:,} sequences of {context:,} tokens",
            place="llama.cpp",
            mend=f"at most {MOST_TOKENS:,} together",
        )


def _parameters(  # noqa: PLR0917 - the caller's own arguments, in its order
    library: Library, context: int, threads: int, flash: str, kv: str, sequences: int, micro_batch: int
) -> _Struct:
    parameters = library.handle.llama_context_default_params()
    words, layout = parameters.words, library.layout
    words[0] = (context + SPARE) * sequences
    words[1] = words[2] = max(micro_batch, sequences)
    words[3] = sequences
    words[layout.threads] = words[layout.threads + 1] = threads
    words[layout.flash] = FLASH[flash] & _MINUS_ONE
    words[layout.kv_type] = words[layout.kv_type + 1] = KV_TYPES[kv]
    return parameters  # type: ignore[no-any-return]
