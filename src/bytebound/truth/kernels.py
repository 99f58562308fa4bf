"""Kernel times measured by others, read into typed arrays: one operator at a time, sampled, in bounded memory.

The source is the data folder of ``aiconfigurator-core`` (Apache-2.0), laid out as ``system/operator/engine/version/table.parquet``,
or single files that carry ``system``, ``src_framework`` and ``src_version`` as columns. What its columns mean:
a decode attention row reads ``isl + step`` keys; ``message_size`` counts elements; times are in milliseconds.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.errors import DocumentError, RequestError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Names = NDArray[np.str_]

PACKAGE = "aiconfigurator_core"
MAX_FILE_BYTES = 2**28
MAX_FILE_ROWS = 5_000_000
BATCH_ROWS = 2**17
LONGEST_S = 1e3
"""No kernel takes longer; the longest of the source takes 4 s."""

SYSTEMS: Mapping[str, str] = MappingProxyType(
    {
        "a100_sxm": "a100-80gb-sxm",
        "h100_sxm": "h100-sxm",
        "h200_sxm": "h200-sxm",
        "b200_sxm": "b200-sxm",
        "b300_sxm": "b300-sxm",
        "gb200": "gb200",
        "gb300": "gb300",
        "l40s": "l40s",
        "rtx_pro_6000_server": "rtx-pro-6000-blackwell-server",
        "b60": "arc-pro-b60",
    }
)
"""The source's systems and our device ids."""

ENGINES: Mapping[str, str] = MappingProxyType({"trtllm": "tensorrt-llm"})
"""The source's engine names that differ from ours."""

DTYPES: Mapping[str, str] = MappingProxyType(
    {
        "bfloat16": "bf16",
        "half": "fp16",
        "fp8": "fp8",
        "fp8_block": "fp8-block",
        "nvfp4": "nvfp4",
        "int8_wo": "int8-weights",
        "int4_wo": "int4-weights",
        "sq": "int8",
        "int8": "int8",
        "w4a16_mxfp4": "mxfp4-weights",
        "w4a8_mxfp4_mxfp8": "mxfp4-mxfp8",
        "w4afp8": "int4-fp8",
    }
)
"""The source's dtypes and ours: ``*-weights`` computes in bf16, ``fp8-block`` scales blocks of 128."""

UNKNOWN_TABLE = "an operator whose time is not modelled alone"
UNKNOWN_SYSTEM = "a system outside our catalogue"
UNKNOWN_DTYPE = "a dtype we do not know"
NOT_A_TIME = "a time that is not a positive number of seconds"
NOT_A_SHAPE = "a shape that is not whole and positive"
REASONS = (UNKNOWN_TABLE, UNKNOWN_SYSTEM, UNKNOWN_DTYPE, NOT_A_TIME, NOT_A_SHAPE)
"""Every reason a row is not read."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where an operator's quantities stand in the source.

    Args:
        tables: file names without ``_perf.parquet``.
        dtype: column of the product's dtype; ``storage``: column of the dtype of what is stored (the KV cache), or "".
        shape: our name of a quantity -> the source's column.
        optional: quantities a file may lack or leave empty; they read as 0.
        label: a text column the operator needs besides (routing, pattern), or "".
    """

    tables: tuple[str, ...]
    dtype: str
    shape: Mapping[str, str]
    storage: str = ""
    optional: Mapping[str, str] = field(default_factory=dict)
    label: str = ""


_HEADS = {"batch": "batch_size", "heads": "num_heads", "isl": "isl", "step": "step"}
_GROUPED = {**_HEADS, "kv_heads": "num_key_value_heads", "head_dim": "head_dim"}
LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "gemm": Layout(("gemm",), "gemm_dtype", {"m": "m", "n": "n", "k": "k"}),
        "attention-decode": Layout(
            ("generation_attention",), "attn_dtype", _GROUPED, "kv_cache_dtype", {"window": "window_size"}
        ),
        "attention-prefill": Layout(
            ("context_attention",), "attn_dtype", _GROUPED, "kv_cache_dtype", {"window": "window_size"}
        ),
        "mla-decode": Layout(("generation_mla",), "mla_dtype", _HEADS, "kv_cache_dtype"),
        "mla-prefill": Layout(("context_mla",), "mla_dtype", _HEADS, "kv_cache_dtype"),
        "moe": Layout(
            ("moe",),
            "moe_dtype",
            {
                "tokens": "num_tokens",
                "hidden": "hidden_size",
                "inner": "inter_size",
                "topk": "topk",
                "experts": "num_experts",
                "tp": "moe_tp_size",
                "ep": "moe_ep_size",
            },
            label="distribution",
        ),
        "all-reduce": Layout(
            ("custom_allreduce",), "allreduce_dtype", {"devices": "num_gpus", "elements": "message_size"}
        ),
        "collective": Layout(
            ("nccl", "oneccl"), "nccl_dtype", {"devices": "num_gpus", "elements": "message_size"}, label="op_name"
        ),
    }
)
"""Operator -> where its rows stand."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """Measured times of one operator, one entry a row.

    Args:
        operator: a name of ``LAYOUTS``.
        system: the source's system (``SYSTEMS``); engine: our engine name, or a library's; version; kernel: its name.
        dtype, storage: our dtypes of the product and of what is stored; label: routing or pattern; all (rows,).
        shape: quantity -> (rows,).
        seconds: (rows,) [s].
    """

    operator: str
    system: Names
    engine: Names
    version: Names
    kernel: Names
    dtype: Names
    storage: Names
    label: Names
    shape: Mapping[str, Floats]
    seconds: Floats

    def __len__(self) -> int:
        return len(self.seconds)

    def where(self, chosen: NDArray[Any]) -> Kernels:
        """Return the rows at ``chosen`` (a mask or indices)."""
        names = {name: getattr(self, name)[chosen] for name in _TEXTS}
        shape = {name: values[chosen] for name, values in self.shape.items()}
        return Kernels(operator=self.operator, shape=shape, seconds=self.seconds[chosen], **names)

    def groups(self, *by: str) -> Iterator[tuple[tuple[str, ...], Kernels]]:
        """Yield (values of the text fields ``by``, the rows that have them), in sorted order."""
        keys = np.stack([getattr(self, name) for name in by], axis=1)
        values, index = np.unique(keys, axis=0, return_inverse=True)
        for place, value in enumerate(values):
            yield tuple(map(str, value)), self.where(np.flatnonzero(index.reshape(-1) == place))


_TEXTS = ("system", "engine", "version", "kernel", "dtype", "storage", "label")


@dataclass(frozen=True, slots=True)
class KernelReadings:
    """What was read: ``rows`` kept, ``seen`` rows met, and ``unexpressed``, reason -> rows met but not understood.

    Folders of systems that are not asked for are not opened.
    """

    rows: Kernels
    seen: int
    unexpressed: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class KernelCounts:
    """``understood`` and ``unexpressed``: (table, system) -> rows, and (table, reason) -> rows. Together every row."""

    understood: Mapping[tuple[str, str], int]
    unexpressed: Mapping[tuple[str, str], int]

    @property
    def total(self) -> int:
        """Every row of every file."""
        return sum(self.understood.values()) + sum(self.unexpressed.values())


def kernel_folder() -> Path:
    """Return the data folder of the installed ``aiconfigurator-core``.

    Raises:
        RequestError: the package is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise RequestError(
            "the kernel tables need the package aiconfigurator-core", mend="install it, or give the folder of its data"
        )
    return Path(next(iter(found.submodule_search_locations))) / "systems" / "data"


def read_kernels(
    operator: str, path: Path | None = None, *, systems: Sequence[str] = (), limit: int = 200_000, seed: int = 0
) -> KernelReadings:
    """Return a sample of about ``limit`` rows of one operator.

    Args:
        operator: a name of ``LAYOUTS``.
        path: a folder or file; the installed package's data if None.
        systems: only these systems of the source; all where empty.
        limit: rows to keep, drawn evenly over the files.
        seed: of the draw; the same seed keeps the same rows.

    Raises:
        UnknownNameError: no such operator or system.
        DocumentError: a file that cannot be read, is too large, or lacks a column.
        RequestError: no package, no pyarrow, or no such rows.
    """
    if operator not in LAYOUTS:
        raise UnknownNameError("kernel operator", operator, LAYOUTS)
    for system in systems:
        if system not in SYSTEMS:
            raise UnknownNameError("kernel system", system, SYSTEMS)
    layout = LAYOUTS[operator]
    files = [file for file in _files(path) if _table(file) in layout.tables and not _elsewhere(file, systems)]
    total = sum(_open(file).metadata.num_rows for file in files)
    rng = np.random.default_rng(seed)
    parts: list[Kernels] = []
    unexpressed: Counter[str] = Counter()
    seen = 0
    for file in files:
        for kernels, refused in _parts(file, operator, layout):
            seen += len(kernels) + sum(refused.values())
            unexpressed += refused
            kept = rng.random(len(kernels)) < limit / max(total, 1)
            if systems:
                kept &= np.isin(kernels.system, list(systems))
            parts.append(kernels.where(np.flatnonzero(kept)))
    if not any(len(part) for part in parts):
        raise RequestError(f"no kernel rows of {operator}", place=str(path or ""), mend="check the folder")
    return KernelReadings(_joined(parts), seen, MappingProxyType(dict(unexpressed)))


def count_kernels(path: Path | None = None) -> KernelCounts:
    """Return how many rows each table and system holds, and how many are not understood, by reason.

    Reads every row of the tables of ``LAYOUTS``, a batch at a time, and only the size of the others.

    Raises:
        DocumentError: a file that cannot be read, is too large, or lacks a column.
        RequestError: no package or no pyarrow.
    """
    operators = {table: name for name, layout in LAYOUTS.items() for table in layout.tables}
    understood: Counter[tuple[str, str]] = Counter()
    unexpressed: Counter[tuple[str, str]] = Counter()
    for file in _files(path):
        table = _table(file)
        if table not in operators:
            unexpressed[table, UNKNOWN_TABLE] += _open(file).metadata.num_rows
            continue
        for kernels, refused in _parts(file, operators[table], LAYOUTS[operators[table]]):
            names, counts = np.unique(kernels.system, return_counts=True)
            understood.update({(table, str(name)): int(count) for name, count in zip(names, counts, strict=True)})
            unexpressed.update({(table, reason): count for reason, count in refused.items()})
    return KernelCounts(MappingProxyType(dict(understood)), MappingProxyType(dict(unexpressed)))


def _files(path: Path | None) -> list[Path]:
    root = kernel_folder() if path is None else path
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise DocumentError("no such file or folder", place=str(root), mend="check the path")
    return sorted(root.rglob("*.parquet"))


def _elsewhere(file: Path, systems: Sequence[str]) -> bool:
    """Whether the folders above ``file`` name a system that is not asked for."""
    named = file.parts[-5] if len(file.parts) >= 5 else ""
    return bool(systems) and named in SYSTEMS and named not in systems


def _table(file: Path) -> str:
    return file.stem.removesuffix("_perf").removeprefix("aic_")


def _open(file: Path) -> Any:
    try:
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise RequestError("the kernel tables need the package pyarrow", mend="install pyarrow") from None
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise DocumentError(f"the file is larger than {MAX_FILE_BYTES // 2**20} MiB", place=str(file))
        opened = parquet.ParquetFile(file)
    except (OSError, arrow.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DocumentError(f"not a readable parquet file ({reason})", place=str(file)) from None
    if opened.metadata.num_rows > MAX_FILE_ROWS:
        raise DocumentError(f"the file holds more than {MAX_FILE_ROWS:,} rows", place=str(file))
    return opened


def _parts(file: Path, operator: str, layout: Layout) -> Iterator[tuple[Kernels, Counter[str]]]:
    """Yield the rows of ``file`` that are understood, with the number refused by reason, a batch at a time."""
    opened = _open(file)
    have = set(opened.schema_arrow.names)
    texts = {"dtype": layout.dtype, "storage": layout.storage, "label": layout.label, "kernel": "kernel_source"}
    own = {"system": "system", "engine": "src_framework", "version": "src_version"}
    inside = set(own.values()) <= have
    need = {*layout.shape.values(), *filter(None, texts.values()), "latency"}
    if missing := sorted(need - have):
        raise DocumentError(f"column {missing[0]} is missing", place=str(file), mend=f"a table of {operator} has it")
    columns = sorted(need | (set(own.values()) if inside else set()) | (set(layout.optional.values()) & have))
    place = {} if inside else dict(zip(("system", "engine", "version"), _placed(file), strict=True))
    for batch in opened.iter_batches(BATCH_ROWS, columns=columns):
        rows = batch.num_rows
        named = {
            key: _text(batch, column, rows) for key, column in {**texts, **(own if inside else {})}.items() if column
        }
        text = {key: named.get(key, np.full(rows, place.get(key, ""))) for key in _TEXTS}
        numbers = {ours: _numbers(batch, theirs, file) for ours, theirs in layout.shape.items()}
        extra = {
            ours: np.nan_to_num(_numbers(batch, theirs, file)) if theirs in have else np.zeros(rows)
            for ours, theirs in layout.optional.items()
        }
        yield _understood(operator, text, numbers, extra, _numbers(batch, "latency", file) / 1e3)


def _understood(
    operator: str,
    text: dict[str, Names],
    shape: dict[str, Floats],
    extra: dict[str, Floats],
    seconds: Floats,
) -> tuple[Kernels, Counter[str]]:
    least = {"step": 0}
    whole = np.ones(len(seconds), dtype=bool)
    for name, values in shape.items():
        whole &= np.isfinite(values) & (values >= least.get(name, 1)) & (values == np.floor(values))
    storage = text["storage"]
    known = np.isin(text["dtype"], list(DTYPES)) & (np.isin(storage, list(DTYPES)) | (storage == ""))
    checks = (
        (UNKNOWN_SYSTEM, np.isin(text["system"], list(SYSTEMS))),
        (UNKNOWN_DTYPE, known),
        (NOT_A_TIME, np.isfinite(seconds) & (seconds > 0) & (seconds < LONGEST_S)),
        (NOT_A_SHAPE, whole),
    )
    good = np.ones(len(seconds), dtype=bool)
    refused: Counter[str] = Counter()
    for reason, passed in checks:
        if bad := int((good & ~passed).sum()):
            refused[reason] = bad
        good &= passed
    text["dtype"], text["storage"] = _renamed(text["dtype"], DTYPES), _renamed(storage, DTYPES)
    text["engine"] = _renamed(text["engine"], ENGINES)
    kernels = Kernels(operator=operator, shape={**shape, **extra}, seconds=seconds, **text)
    return kernels.where(np.flatnonzero(good)), refused


def _placed(file: Path) -> tuple[str, str, str]:
    """Return (system, engine, version) from the folders above ``file``."""
    parts = file.parts
    if len(parts) < 5:
        raise DocumentError(
            "neither columns nor folders say the system", place=str(file), mend="keep system/operator/engine/version/"
        )
    return parts[-5], parts[-3], parts[-2]


def _text(batch: Any, column: str, rows: int) -> Names:
    values = batch.column(column)
    if hasattr(values, "dictionary"):
        values = values.dictionary_decode()
    return np.array([value or "" for value in values.to_pylist()] if rows else [], dtype=np.str_)


def _numbers(batch: Any, column: str, file: Path) -> Floats:
    try:
        return np.asarray(batch.column(column).to_numpy(zero_copy_only=False), dtype=np.float64)
    except (TypeError, ValueError):
        raise DocumentError(f"column {column} does not hold numbers", place=str(file)) from None


def _renamed(names: Names, to: Mapping[str, str]) -> Names:
    values, index = np.unique(names, return_inverse=True)
    return np.array([to.get(str(value), str(value)) for value in values], dtype=np.str_)[index]


def _joined(parts: Sequence[Kernels]) -> Kernels:
    texts = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _TEXTS}
    shape = {name: np.concatenate([part.shape[name] for part in parts]) for name in parts[0].shape}
    return Kernels(
        operator=parts[0].operator, shape=shape, seconds=np.concatenate([part.seconds for part in parts]), **texts
    )
