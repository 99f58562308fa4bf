"""OpenVINO GenAI as an engine of proofs (see ``bytebound.prove``): it reads GGUF files; whole generations are timed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

from bytebound.engines.prove_llamacpp import resident_bytes
from bytebound.errors import DocumentError

PROMPT = "The capital of France is"


class OpenVino:
    """One GGUF model in a pipeline on the processor."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """Load it; ``settings``: file (.gguf), threads, batch.

        Raises:
            DocumentError: the package or the file is missing.
        """
        if importlib.util.find_spec("openvino_genai") is None:
            raise DocumentError("OpenVINO GenAI is not installed", place="openvino", mend="pip install openvino-genai")
        import openvino_genai  # noqa: PLC0415 - optional

        file = Path(str(settings["file"]))
        if not file.is_file():
            raise DocumentError("no such file", place=str(file), mend="name a .gguf file")
        self.version = importlib.metadata.version("openvino-genai")
        self._batch, self._empty = int(settings.get("batch", 1)), resident_bytes()
        self._weights = float(file.stat().st_size)
        self._pipeline = openvino_genai.LLMPipeline(str(file), "CPU", INFERENCE_NUM_THREADS=int(settings["threads"]))
        self._asked = openvino_genai.GenerationConfig
        self.generate(2)  # the first pass compiles

    def generate(self, tokens: int) -> None:
        """Pass a short prompt for every sequence and decode ``tokens`` greedily."""
        asked = self._asked()
        asked.max_new_tokens = asked.min_new_tokens = tokens
        asked.ignore_eos, asked.do_sample, asked.apply_chat_template = True, False, False
        self._pipeline.generate([PROMPT] * self._batch, asked)  # several tensors it takes only of one sequence each

    def memory(self) -> dict[str, float]:
        """Return bytes: the file's, and what this process grew by."""
        return {"weights": self._weights, "resident": resident_bytes() - self._empty}

    def close(self) -> None:
        """Give the model back."""
        self._pipeline = None


def open(settings: dict[str, Any]) -> OpenVino:  # noqa: A001 - the protocol's name
    """Open a model."""
    return OpenVino(settings)
