"""What one step of a PyTorch model did, operator by operator: calls, time, and FLOPs and bytes counted by us.

The profiler hands over a tree of operators with the shapes and dtypes of their inputs and the memory they allocated.
An operator is taken at the outermost level at which we can count it: ``linear`` is one product, and what it calls
inside is its own work. FLOPs and bytes never come from the profiler.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bytebound.documents.observation import OperatorRun

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Shape = tuple[int, ...]

STEP = "bytebound.step"
"""Name of the profiler range around one step."""
BETWEEN = "between operators"
"""Row for the part of a step that no operator accounts for: Python, dispatch, a device that waits for its host."""

VIEWS = "views"
"""Row for all operators that move nothing: they cost the host time and the device none."""

DTYPE_BYTES = {
    "double": 8, "float": 4, "c10::Half": 2, "c10::BFloat16": 2, "long int": 8, "long": 8, "int": 4, "short int": 2,
    "short": 2, "signed char": 1, "unsigned char": 1, "bool": 1, "c10::Float8_e4m3fn": 1, "c10::Float8_e5m2": 1,
    "c10::complex<float>": 8, "c10::complex<double>": 16,
}  # fmt: skip
"""Bytes of one value, by the dtype's name in a profiler event."""

PRODUCTS = {
    "aten::linear": (0, 1), "aten::matmul": (0, 1), "aten::mm": (0, 1), "aten::bmm": (0, 1), "aten::mv": (0, 1),
    "aten::addmm": (1, 2), "aten::addmv": (1, 2), "aten::baddbmm": (1, 2), "aten::_scaled_mm": (0, 1),
}  # fmt: skip
"""Matrix products: where their two factors stand among the inputs. ``linear`` has its second one transposed."""
GROUPED = "aten::_grouped_mm"
"""All experts' products in one operator; where it has no kernel, it calls ``mm`` for one expert after the other."""
CONVOLUTIONS = ("aten::conv1d", "aten::conv2d", "aten::conv3d", "aten::convolution")
CAUSAL_AT = {
    "aten::scaled_dot_product_attention": 5,
    "aten::_scaled_dot_product_flash_attention_for_cpu": 4,
    "aten::_scaled_dot_product_flash_attention": 4,
    "aten::_scaled_dot_product_efficient_attention": 6,
    "aten::_scaled_dot_product_cudnn_attention": 6,
}
"""Fused attention: where its ``is_causal`` stands among the inputs."""
LOOKUPS = {
    "aten::embedding",
    "aten::index_select",
    "aten::index",
    "aten::gather",
    "aten::take",
    "aten::cat",
    "aten::stack",
}
"""Operators that read as many bytes as they write, whatever the size of the table they read from."""
MOVES = LOOKUPS | {
    "aten::to", "aten::_to_copy", "aten::copy_", "aten::clone", "aten::contiguous", "aten::reshape", "aten::repeat",
    "aten::repeat_interleave", "aten::index_copy_", "aten::slice_scatter", "aten::arange", "aten::fill_", "aten::zeros",
    "aten::ones", "aten::full", "aten::pad", "aten::constant_pad_nd",
}  # fmt: skip
"""Operators that move values and compute none."""
COLLECTIVES = ("c10d::", "_c10d_functional::", "nccl:", "gloo:")


@dataclass(frozen=True, slots=True)
class Work:
    """What one call of an operator is: its kind, FLOPs and bytes, and the shapes that tell it from others."""

    kind: str
    flops: float
    bytes: float
    shapes: str


NOTHING = Work("other", 0.0, 0.0, "")
"""Work of a view, a shape, an empty array."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Names of a model's matrices by shape, so that a product can be called by the layers it belongs to."""

    names: Mapping[Shape, str]

    def name(self, *shapes: Shape) -> str:
        """Return the layers whose weight has the last two axes of one of ``shapes``, either way round, or nothing.

        No weight of a product has more than three axes (experts, outputs, inputs).
        """
        for shape in shapes:
            found = self.names.get(shape[-2:]) or self.names.get(shape[-2:][::-1])
            if 1 < len(shape) < 4 and found:
                return found
        return ""


def weights_of(model: Any) -> Weights:
    """Return the names of the matrices of ``model`` (a ``torch.nn.Module``); tables that are only looked up are left out."""
    tables = {id(module) for module in model.modules() if type(module).__name__.endswith("Embedding")}
    names: dict[Shape, dict[str, None]] = defaultdict(dict)
    for path, module in model.named_modules():
        if id(module) in tables:
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() > 1:
                layer = path.rsplit(".", 1)[-1] if name == "weight" else name
                names[tuple(parameter.shape)[-2:]][layer] = None
    return Weights({shape: ", ".join(layers) for shape, layers in names.items()})


def product_work(name: str, shapes: Sequence[Shape], item: int, weights: Weights) -> Work | None:
    """Return the work of a matrix product: 2 m n k FLOPs, each factor read and the result written once.

    A product of batches without any of the model's matrices, such as scores of queries and keys, is attention. None for an
    outer product (k = 1), which is an elementwise multiplication in disguise, and for shapes that are no matrices.
    """
    at, bt = PRODUCTS[name]
    if max(at, bt) >= len(shapes) or not shapes[at] or not shapes[bt]:
        return None
    a, b = shapes[at], shapes[bt]
    right = b[::-1] if name == "aten::linear" else b
    inner = a[-1]
    columns = right[-1] if len(right) > 1 else 1
    if inner == 1:
        return None
    batch = math.prod(_broadcast(a[:-2], right[:-2])) if len(right) > 2 else math.prod(a[:-2])
    rows = batch * (a[-2] if len(a) > 1 else 1)
    if rows == 0:  # an expert nobody chose
        return NOTHING
    layers = weights.name(b, a)
    kind = "gemm" if layers or min(len(a), len(b)) < 3 else "attention"
    moved = math.prod(a) + math.prod(b) + rows * columns
    text = f"{_text(b)} {layers}" if layers else f"{_text(a)} · {_text(b)}"
    return Work(kind, 2.0 * rows * columns * inner, float(moved * item), text)


def grouped_work(a: Shape, b: Shape, item: int, weights: Weights) -> Work:
    """Return the work of (rows, k) times each row's own expert out of (experts, k, n).

    Which experts are hit is not recorded: the matrices read are those that this many rows would hit if each chose freely,
    E (1 − (1 − 1/E)^rows) of E.
    """
    rows, experts = a[0], b[0]
    hit = experts * (1 - (1 - 1 / experts) ** rows)
    moved = math.prod(a) + hit * b[1] * b[2] + rows * b[2]
    return Work("gemm", 2.0 * rows * b[1] * b[2], moved * item, f"{_text(b)} {weights.name(b)}".strip())


def attention_work(query: Shape, key: Shape, value: Shape, *, causal: bool, mask_bytes: float, item: int) -> Work:
    """Return the work of fused attention over (batch, heads, tokens, width): q kᵀ and the weighted sum of v.

    2 B H P (d_qk + d_v) FLOPs with P query-key pairs: all T × S, or those under the diagonal when ``causal``. Queries, keys,
    values and the result cross memory once. Source: FlashAttention (arXiv 2205.14135) section 3.
    """
    batch, heads, tokens = math.prod(query[:-3]), query[-3], query[-2]
    length = key[-2]
    inside = min(tokens, length)
    pairs = inside * (inside + 1) // 2 + (tokens - inside) * length if causal else tokens * length
    flops = 2.0 * batch * heads * pairs * (query[-1] + value[-1])
    moved = math.prod(query) + math.prod(key) + math.prod(value) + batch * heads * tokens * value[-1]
    return Work("attention", flops, moved * item + mask_bytes, f"q {_text(query)} kv {_text(key)}")


def counted(event: Any, weights: Weights) -> Work | None:
    """Return the work of a profiler event that is a product, a convolution or attention; None for any other."""
    name: str = event.name
    shapes = [tuple(shape) for shape in event.input_shapes]
    sizes = [DTYPE_BYTES.get(dtype, 0) for dtype in event.input_dtypes]
    if name in PRODUCTS:
        return product_work(name, shapes, sizes[PRODUCTS[name][0]], weights)
    if name in CAUSAL_AT and len(shapes[0]) >= 3:
        mask = shapes[3] if name == "aten::scaled_dot_product_attention" and len(shapes) > 3 else ()
        causal = CAUSAL_AT[name] < len(event.concrete_inputs) and event.concrete_inputs[CAUSAL_AT[name]] is True
        mask_bytes = math.prod(mask) * sizes[3] if mask else 0
        return attention_work(*shapes[:3], causal=causal, mask_bytes=mask_bytes, item=sizes[0])
    if name == GROUPED and not any(child.name == "aten::mm" for child in operators(event)):
        return grouped_work(shapes[0], shapes[1], sizes[0], weights)
    if name in CONVOLUTIONS and len(shapes[1]) > 2:
        out = allocated(event) / sizes[0]
        moved = math.prod(shapes[0]) + math.prod(shapes[1]) + out
        text = f"{_text(shapes[0])} * {_text(shapes[1])}"
        return Work("gemm", 2.0 * out * math.prod(shapes[1][1:]), moved * sizes[0], text)
    return None


def passed(event: Any) -> Work:
    """Return the work of any other operator: its inputs are read and what it allocated is written, once each.

    One that allocates nothing and does not work in place (a view, a shape) moves nothing. FLOPs are one per value written.
    """
    name: str = event.name
    sizes = [
        (math.prod(shape), DTYPE_BYTES.get(dtype, 0)) if shape or dtype in DTYPE_BYTES else (0, 0)
        for shape, dtype in zip(event.input_shapes, event.input_dtypes, strict=False)
    ]
    inputs = [count * size for count, size in sizes]
    written = allocated(event)
    in_place = name.endswith("_") and not name.endswith("__")
    if in_place and inputs:
        written = inputs[0]
        inputs = inputs[1:] if name in MOVES else inputs
    if written == 0 or name.startswith("aten::empty") or name == "aten::new_empty":
        return NOTHING
    read = written if name in LOOKUPS else sum(inputs)
    item = next((size for _, size in sizes if size), 4)
    kind = "collective" if name.startswith(COLLECTIVES) else "elementwise"
    return Work(kind, 0.0 if name in MOVES else written / item, float(read + written), "")


def allocated(event: Any) -> float:
    """Return the bytes an operator allocated and kept: its result, and not what it freed again."""
    return float(max(event.cpu_memory_usage, 0) + max(event.device_memory_usage, 0))


def pieces(event: Any, weights: Weights) -> Iterator[tuple[Any, Work, bool]]:
    """Yield (event, its work, whether it stands for all it calls) for an operator and, where needed, those inside it.

    An operator that cannot be counted itself and calls one that can (``einsum``) keeps its own time and passes on the rest.
    """
    work = counted(event, weights)
    if work is None and _holds(event, weights):
        yield event, NOTHING, False
        for child in operators(event):
            yield from pieces(child, weights)
    else:
        yield event, work or passed(event), True


def operators(event: Any) -> Iterator[Any]:
    """Yield the operators called directly inside ``event``; ranges that only carry a name are looked through."""
    for child in event.cpu_children:
        if "::" in child.name and not child.name.startswith("cuda"):
            yield child
        else:
            yield from operators(child)


def _holds(event: Any, weights: Weights) -> bool:
    return any(counted(child, weights) is not None or _holds(child, weights) for child in operators(event))


def operator_runs(step: Any, weights: Weights, *, device: bool = False) -> tuple[OperatorRun, ...]:
    """Return the operators of one profiled step, the longest first; their seconds add up to the step's.

    Args:
        step: the profiler's event of the range called ``STEP``.
        weights: names of the model's matrices.
        device: count the time of device kernels instead of the host's.
    """
    total: dict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0.0] * 4)
    for event in operators(step):
        for piece, work, whole in pieces(event, weights):
            name = VIEWS if whole and work is NOTHING else piece.name.removeprefix("aten::")
            row = total[name, work.kind, work.shapes]
            for at, value in enumerate((1.0, _seconds(piece, device=device, whole=whole), work.flops, work.bytes)):
                row[at] += value
    runs = [
        OperatorRun(name, kind, calls=calls, seconds=seconds, flops=flops, bytes=moved, shapes=shapes)
        for (name, kind, shapes), (calls, seconds, flops, moved) in total.items()
    ]
    between = step.cpu_time_total * 1e-6 - sum(run.seconds for run in runs)
    runs.append(OperatorRun(BETWEEN, "other", calls=0.0, seconds=max(between, 0.0), flops=0.0, bytes=0.0))
    return tuple(sorted(runs, key=lambda run: -run.seconds))


def _seconds(event: Any, *, device: bool, whole: bool) -> float:
    if device:
        return float(event.device_time_total if whole else event.self_device_time_total) * 1e-6
    return float(event.cpu_time_total if whole else event.self_cpu_time_total) * 1e-6


def _broadcast(a: Shape, b: Shape) -> Shape:
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    padded = (1,) * (len(longer) - len(shorter)) + tuple(shorter)
    return tuple(max(x, y) for x, y in zip(longer, padded, strict=True))


def _text(shape: Shape) -> str:
    return "×".join(str(size) for size in shape)
