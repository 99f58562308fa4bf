"""llama.cpp as an engine of proofs (see ``bytebound.prove``): steps, passes, generations with and without a draft, memory, logits."""

from __future__ import annotations

import ctypes
import re
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.engines.llamacpp import Session, load_llamacpp, open_session
from bytebound.engines.llamacpp_text import best, load_state, logits_of, save_state, tokenize
from bytebound.errors import QuantityError

if TYPE_CHECKING:
    from collections.abc import Sequence

MIB = 2**20
_CACHE = re.compile(r"KV buffer size\s*=\s*([0-9.]+) MiB")
_REPACKED = re.compile(r"REPACK model buffer size\s*=\s*([0-9.]+) MiB")
_SAID: list[str] = []
_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_hear = _LOG(lambda _level, text, _data: _SAID.append((text or b"").decode(errors="replace")))
"""llama.cpp's log, which alone tells the sizes of its buffers; kept for the life of the process, as the library keeps the callback."""


class LlamaCpp:
    """One open model, and its draft where there is one."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """Load the model; ``settings``: file, context, threads, flash, kv, sequences, draft, draft_tokens, prompts (ids)."""
        self._opened = ExitStack()
        library = load_llamacpp()
        library.handle.llama_log_set(ctypes.cast(_hear, ctypes.c_void_p), None)
        _SAID.clear()
        self._empty = resident_bytes()
        self._session = self._open(str(settings["file"]), settings)
        self._draft = self._open(str(settings["draft"]), settings) if settings.get("draft") else None
        self._ahead = int(settings.get("draft_tokens", 4))
        self._prompts = [[int(token) for token in prompt] for prompt in settings.get("prompts", ())]
        self._starts: list[list[Any]] = []
        self._kept: Any = None
        self.version = f"{library.package} {library.version}"

    def _open(self, file: str, settings: dict[str, Any]) -> Session:
        return self._opened.enter_context(
            open_session(
                file, context=int(settings["context"]), threads=int(settings["threads"]),
                flash=str(settings.get("flash", "on")), kv=str(settings.get("kv", "fp16")),
                sequences=int(settings.get("sequences", 1)),
            )
        )  # fmt: skip

    def prepare(self, depth: int, *, keep: bool = False) -> None:
        """Put every sequence at ``depth`` tokens and, with ``keep``, keep the first one's KV cache in host memory too.

        With prompts, read each but its last token and keep the caches, so that every generation starts from them.
        """
        for prompt in self._prompts:
            if len(prompt) < 2:
                raise QuantityError("nothing to go on from", place="prompts", mend="give two or more token ids each")
            for session in self._sessions():
                session.trim(0)
                best(session, prompt[:-1], 0, every=False)
            self._starts.append([save_state(session) for session in self._sessions()])
        if not self._prompts:
            self._session.fill(depth)
        if keep:
            self._kept = save_state(self._session)

    def step(self, depth: int = 0) -> None:
        """Decode one token of every sequence."""
        self._session.step(depth)

    def prefill(self, tokens: int, past: int = 0) -> None:
        """Pass ``tokens`` new tokens of one sequence after ``past`` that are there."""
        self._session.trim(past)
        self._session.prefill(tokens, past)

    def recall(self, tokens: int, past: int) -> None:
        """Put the kept cache of ``past`` tokens back and pass ``tokens`` new ones."""
        load_state(self._session, self._kept)
        self._session.prefill(tokens, past)

    def generate(self, tokens: int) -> None:
        """Generate ``tokens`` tokens greedily after each prompt, with the draft going ahead where there is one."""
        self.generated(tokens)

    def generated(self, tokens: int) -> dict[str, Any]:
        """Return what ``generate`` gives: token ids of each prompt, and how many drafted tokens were accepted and refused."""
        if not self._starts:
            raise QuantityError("nothing to go on from", place="prompts", mend="give prompts, and prepare")
        texts, accepted, refused = [], 0, 0
        for prompt, starts in zip(self._prompts, self._starts, strict=True):
            for session, start in zip(self._sessions(), starts, strict=True):
                load_state(session, start)
            new, good, bad = self._go_on(prompt, tokens)
            texts.append(new)
            accepted, refused = accepted + good, refused + bad
        return {"tokens": texts, "accepted": accepted, "refused": refused}

    def _go_on(self, prompt: list[int], tokens: int) -> tuple[list[int], int, int]:
        """Generate after one prompt that is read.

        Drafted tokens are those the draft finds likeliest; the model takes them as long as they are its own choice too, so the
        text is the same with and without. Source: Leviathan et al. 2023 (arXiv 2211.17192), algorithm 1 at temperature 0.
        """
        whole, known, accepted, refused = list(prompt), len(prompt) - 1, 0, 0
        while len(whole) < len(prompt) + tokens:
            at = len(whole) - 1
            ahead = [] if self._draft is None else propose(self._draft, whole, known, self._ahead)
            chosen = best(self._session, [whole[-1], *ahead], at)
            good = next((i for i, token in enumerate(ahead) if token != chosen[i]), len(ahead))
            accepted, refused = accepted + good, refused + (good < len(ahead))
            whole += chosen[: good + 1]
            self._session.trim(at + 1 + good)
            if self._draft is not None:
                known = min(at + self._ahead, at + 1 + good)  # the draft never passed its own last token
                self._draft.trim(known)
        return whole[len(prompt) :][:tokens], accepted, refused

    def _sessions(self) -> tuple[Session, ...]:
        return (self._session,) if self._draft is None else (self._session, self._draft)

    def memory(self) -> dict[str, float]:
        """Return bytes: tensors, KV cache and repacked copies as llama.cpp says them, and what this process grew by."""
        said = "".join(_SAID)
        caches, copies = (MIB * sum(map(float, size.findall(said))) for size in (_CACHE, _REPACKED))
        weights = float(sum(s.library.handle.llama_model_size(s.model) for s in self._sessions()))
        return {"weights": weights, "kv": caches, "repacked": copies, "resident": resident_bytes() - self._empty}

    def tokenize(self, text: str) -> list[int]:
        """Return the model's tokens of ``text``."""
        return tokenize(self._session, text)

    def logits(self, tokens: list[list[int]], file: str) -> None:
        """Save the logits of every position of every row, each from an empty context."""
        np.save(file, np.stack([logits_of(self._session, row) for row in tokens]))

    def close(self) -> None:
        """Give everything back."""
        self._opened.close()


def propose(draft: Session, whole: Sequence[int], known: int, count: int) -> list[int]:
    """Return the ``count`` tokens that ``draft`` finds likeliest after ``whole``, of which it holds the first ``known``."""
    found: list[int] = []
    while len(found) < count:
        found += best(draft, found[-1:] or whole[known:], len(whole) + len(found) - 1 if found else known, every=False)
    return found


def resident_bytes() -> float:
    """Return what this process holds in memory, shared file pages included; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    import resource  # noqa: PLC0415 - where /proc is

    return float(pages * resource.getpagesize())


def open(settings: dict[str, Any]) -> LlamaCpp:  # noqa: A001 - the protocol's name
    """Open a model."""
    return LlamaCpp(settings)
