"""A server's metrics page (Prometheus text): parsed with bounds, subtracted, and its gauges summed up.

Format: Prometheus text exposition 0.0.4, and of OpenMetrics what servers mix in (``# EOF``, exemplars).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bytebound.errors import DocumentError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_PAGE, MAX_SAMPLES = 8 << 20, 50_000
"""Bytes and samples of one page that are believed. A vLLM page has some 60 kB and 500 samples."""

CANONICAL: dict[str, tuple[str, ...]] = {
    "running": ("vllm:num_requests_running", "sglang:num_running_reqs", "llamacpp:requests_processing"),
    "waiting": ("vllm:num_requests_waiting", "sglang:num_queue_reqs", "llamacpp:requests_deferred"),
    "kv_usage": (
        "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "sglang:token_usage", "llamacpp:kv_cache_usage_ratio",
    ),
    "ttft_s": ("vllm:time_to_first_token_seconds", "sglang:time_to_first_token_seconds"),
    "tpot_s": (
        "vllm:request_time_per_output_token_seconds", "vllm:time_per_output_token_seconds",
        "vllm:inter_token_latency_seconds", "sglang:time_per_output_token_seconds", "sglang:inter_token_latency_seconds",
    ),
    "prompt_tokens": ("vllm:prompt_tokens", "sglang:prompt_tokens", "llamacpp:prompt_tokens"),
    "output_tokens": ("vllm:generation_tokens", "sglang:generation_tokens", "llamacpp:tokens_predicted"),
    "cached_tokens": ("vllm:prefix_cache_hits", "sglang:cached_tokens", "llamacpp:prompt_tokens_cached"),
    "preemptions": ("vllm:num_preemptions", "sglang:num_retracted_reqs"),
}  # fmt: skip
"""What servers call the same thing, in their own documentation (vLLM 0.32 and SGLang "Production Metrics", llama-server
README). The first name that a page has is used."""
_SAMPLE = re.compile(
    r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\s*\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\}\s*|\s+)'  # name and labels
    r"([^\s{}#]+)(?:\s+-?[0-9.]+)?\s*(?:\s#\s.*)?"  # value, perhaps a time, perhaps an exemplar
)
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')
_SUFFIX = re.compile(r"_(?:total|sum|count|bucket|created|info)$")
_OTHERS = ("python_", "process_", "go_", "promhttp_", "http_")  # of libraries, not of the engine; our looks count there

_CACHE = {
    "num_gpu_blocks": "kv_blocks", "block_size": "kv_block_tokens", "kv_cache_size_tokens": "kv_tokens",
    "kv_cache_memory_bytes": "kv_bytes",
}  # fmt: skip

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Page:
    """One reading of a metrics page: every sample by name and labels, and the type each name was declared with."""

    samples: dict[tuple[str, Labels], float]
    types: dict[str, str]

    def kind(self, name: str) -> str:
        """Return what ``name`` was declared as: counter, gauge, histogram, summary, info or unknown."""
        if name in self.types:
            return self.types[name]
        stem = _SUFFIX.sub("", name)
        return self.types.get(stem, "unknown")

    def values(self, name: str) -> list[float]:
        """Return the values of ``name`` under all its labels."""
        return [value for (known, _), value in self.samples.items() if known == name]


def parse_page(text: str, *, only: Sequence[str] = ()) -> Page:
    """Return the samples of a page.

    Args:
        text: the page.
        only: names to keep; all others are skipped unread, which makes a reading cheap during a run.

    Raises:
        DocumentError: too long, a line that is no sample, or the same sample twice.
    """
    if len(text) > MAX_PAGE:
        raise DocumentError(f"longer than {MAX_PAGE} bytes", place="metrics page", mend="is this a metrics page?")
    samples: dict[tuple[str, Labels], float] = {}
    types: dict[str, str] = {}
    wanted = tuple(only)
    for number, line in enumerate(text.split("\n"), 1):
        line = line.rstrip("\r")  # noqa: PLW2901 - the same line
        if line.startswith("#"):
            words = line.split(None, 3)
            if len(words) == 4 and words[1] == "TYPE":
                types[words[2]] = words[3].strip().lower().replace("untyped", "unknown")
            continue
        if not line.strip() or (wanted and not line.startswith(wanted)):
            continue
        place = f"metrics page: line {number}"
        name, labels, value = _sample(line, place)
        if (name, labels) in samples:
            raise DocumentError(
                f"{name} is given twice with the same labels", place=place, mend="report it to the server's makers"
            )
        if len(samples) >= MAX_SAMPLES:
            raise DocumentError(f"more than {MAX_SAMPLES} samples", place=place, mend="is this a metrics page?")
        samples[name, labels] = value
    return Page(samples, types)


def _sample(line: str, place: str) -> tuple[str, Labels, float]:
    found = _SAMPLE.fullmatch(line)
    if found is None:
        raise DocumentError(f"not a sample: {line[:60]!r}", place=place, mend="is this a metrics page?")
    name, inside, number = found.groups()
    try:
        value = float(number.replace("_", "x"))  # Python reads 1_000, the format does not
    except ValueError:
        raise DocumentError(
            f"{name}: not a number: {number[:40]!r}", place=place, mend="is this a metrics page?"
        ) from None
    return name, _labels(inside or "", place), value


def _labels(inside: str, place: str) -> Labels:
    labels: dict[str, str] = {}
    at = 0
    while inside[at:].strip():
        found = _LABEL.match(inside, at)
        if found is None or found[1] in labels:
            raise DocumentError(f"labels cannot be read: {inside[:60]!r}", place=place, mend="is this a metrics page?")
        labels[found[1]] = re.sub(r"\\(.)", lambda escape: "\n" if escape[1] == "n" else escape[1], found[2])
        at = found.end()
    return tuple(sorted(labels.items()))


def differences(before: Page, after: Page) -> tuple[dict[str, float], list[str]]:
    """Return how far each counter rose between two readings (summed over labels), and names of those that fell.

    Histograms and summaries give ``NAME_sum`` and ``NAME_count``, and ``NAME.mean`` where anything was counted.
    A counter that fell means that the server was restarted meanwhile: it is left out.
    """
    rises: dict[str, float] = {}
    for (name, labels), value in after.samples.items():
        kind = after.kind(name)
        counted = kind == "counter" or (kind in ("histogram", "summary") and name.endswith(("_sum", "_count")))
        if counted and not name.endswith("_created") and not name.startswith(_OTHERS):
            rises[name] = rises.get(name, 0.0) + value - before.samples.get((name, labels), 0.0)
    fell = sorted(name for name, rise in rises.items() if not (math.isfinite(rise) and rise >= 0))
    kept = {name: rise for name, rise in rises.items() if name not in fell}
    for name in [name for name in kept if name.endswith("_count") and kept[name] > 0]:
        stem = name.removesuffix("_count")
        if f"{stem}_sum" in kept:
            kept[f"{stem}.mean"] = kept[f"{stem}_sum"] / kept[name]
    return kept, fell


def cache_settings(page: Page) -> dict[str, float | str]:
    """Return how vLLM or SGLang has set up its KV memory, from the labels of ``cache_config_info``; else nothing."""
    found = next((dict(labels) for name, labels in page.samples if name.endswith(":cache_config_info")), {})
    numbers = {ours: _number(found.get(theirs, "")) for theirs, ours in _CACHE.items()}
    dtype = found.get("cache_dtype", "")
    kept: dict[str, float | str] = {name: number for name, number in numbers.items() if number > 0}
    return kept | ({"kv_dtype": dtype[:40]} if dtype.isascii() and dtype.isprintable() and dtype else {})


def _number(text: str) -> float:
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0.0


def gauge_names(page: Page) -> tuple[str, ...]:
    """Return the page's own names for requests running, requests waiting and KV memory used."""
    present = {name for name, _ in page.samples}
    return tuple(name for what in ("running", "waiting", "kv_usage") for name in CANONICAL[what] if name in present)


def gauges(pages: Sequence[Page], names: Sequence[str]) -> dict[str, float]:
    """Return ``NAME.max`` and ``NAME.mean`` over readings during a run, and how many there were: ``server.looks``.

    Labels (one per engine of a data-parallel server) are added up; shares of memory are averaged over them.
    """
    seen: dict[str, float] = {"server.looks": float(len(pages))} if names else {}
    for name in names:
        shares = name in CANONICAL["kv_usage"]
        found = [values for page in pages if (values := page.values(name)) and all(map(math.isfinite, values))]
        at = [sum(values) / (len(values) if shares else 1) for values in found]
        if at:
            seen[f"{name}.max"], seen[f"{name}.mean"] = max(at), sum(at) / len(at)
    return seen


def canonical(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the figures that every server has under one name: ``server.ttft_s.mean``, ``server.running.max``, ….

    Example:
        >>> canonical({"vllm:generation_tokens_total": 64.0, "vllm:num_requests_running.max": 4.0})
        {'server.running.max': 4.0, 'server.output_tokens': 64.0}
    """
    same: dict[str, float] = {}
    for what, names in CANONICAL.items():
        for ending in ("", "_total", ".max", ".mean"):
            found = next((metrics[name + ending] for name in names if name + ending in metrics), None)
            if found is not None:
                same[f"server.{what}{ending.removeprefix('_total')}"] = found
    return same
