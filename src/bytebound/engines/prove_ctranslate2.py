"""CTranslate2 as an engine of proofs (see ``bytebound.prove``): decode steps, prefill with and without a kept prefix, logits."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np

from bytebound.engines.prove_llamacpp import resident_bytes
from bytebound.errors import DocumentError, QuantityError

FIRST = 100
"""Token ids from here on serve as arbitrary text: marks of beginning and end lie before."""


class CTranslate2:
    """One converted model, ready."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """Load it; ``settings``: folder, compute (``float32``, ``int8``, …), threads, batch.

        Raises:
            DocumentError: the package is missing.
            QuantityError: this processor has no kernels for ``compute``.
        """
        folder, compute = Path(str(settings["folder"])), str(settings["compute"])
        check_compute(compute)
        import ctranslate2  # noqa: PLC0415 - optional

        self.version = str(ctranslate2.__version__)
        self._folder, self._empty = folder, resident_bytes()
        self._generator = ctranslate2.Generator(
            str(folder), device="cpu", compute_type=compute, intra_threads=int(settings["threads"])
        )
        self._batch = int(settings.get("batch", 1))
        self._words: list[str] = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        self._weights = float((folder / "model.bin").stat().st_size)

    def step(self, depth: int = 16) -> None:
        """Decode one token of each sequence after ``depth`` that are kept; they are copied to every sequence first."""
        self._generate([self._text(depth, 1)] * self._batch, past=depth)

    def prefill(self, tokens: int, past: int = 0) -> None:
        """Pass ``tokens`` new tokens of each sequence, after ``past`` whose state is kept from the first call on."""
        self._generate([self._text(past, tokens)] * self._batch, past=past)

    def _text(self, start: int, count: int) -> list[str]:
        return [self._words[FIRST + (start + i) % (len(self._words) - FIRST)] for i in range(count)]

    def _generate(self, text: list[list[str]], *, past: int) -> None:
        """Pass ``text`` and sample one token. A prompt of n tokens takes one pass of n − 1 and a step of its last one."""
        kept = {"static_prompt": self._text(0, past), "cache_static_prompt": True} if past else {}
        self._generator.generate_batch(text, max_length=1, min_length=1, include_prompt_in_result=False, **kept)

    def memory(self) -> dict[str, float]:
        """Return bytes: the file of weights, and what this process grew by."""
        return {"weights": self._weights, "resident": resident_bytes() - self._empty}

    def tokenize(self, text: str) -> list[int]:
        """Return the model's tokens of ``text``."""
        from tokenizers import Tokenizer  # noqa: PLC0415 - optional

        read = Tokenizer.from_file(str(self._folder / "tokenizer.json"))
        return [int(each) for each in read.encode(text, add_special_tokens=False).ids]

    def logits(self, tokens: list[list[int]], file: str) -> None:
        """Save the logits of every position of every row (sequences, positions, vocabulary)."""
        rows = [np.array(self._generator.forward_batch([[self._words[i] for i in row]]))[0] for row in tokens]
        np.save(file, np.stack(rows).astype(np.float32))

    def close(self) -> None:
        """Give the model back."""
        self._generator.unload_model()


def check_compute(compute: str) -> None:
    """Make sure that CTranslate2 has kernels for ``compute`` on this processor.

    Raises:
        DocumentError: the package is missing.
        QuantityError: it has none.
    """
    if importlib.util.find_spec("ctranslate2") is None:
        raise DocumentError("CTranslate2 is not installed", place="ctranslate2", mend="pip install ctranslate2")
    import ctranslate2  # noqa: PLC0415 - optional

    known = ctranslate2.get_supported_compute_types("cpu")
    if compute not in known:
        raise QuantityError(
            f"CTranslate2 has no {compute} kernels for this processor", place="compute",
            mend=f"it has {', '.join(sorted(known))}",
        )  # fmt: skip


def open(settings: dict[str, Any]) -> CTranslate2:  # noqa: A001 - the protocol's name
    """Open a model."""
    return CTranslate2(settings)
