"""What tensor parallelism does to each tensor of a trace, found from where it was made and from its shape.

The roles are those of Megatron-LM (arXiv 1909.08053 section 3): a column-parallel product, what is computed on its output, and a
row-parallel product that sums. Tensors between the two are divided; those outside are divided only under sequence parallelism
(arXiv 2205.05198 section 4.2.2). Modules are known by a plan (as Hugging Face's ``base_model_tp_plan``) or else by their names; what
neither knows stays whole on every rank.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bytebound.errors import UnknownNameError
from bytebound.ledger.table import COLUMN, REPLICATE, ROW, VOCAB

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bytebound.documents.trace import TracedTensor

DIVIDED, SEQUENCE, KV, ROUTED = range(4)
"""How tensor parallelism treats an activation: divided; divided under sequence parallelism only; divided up to the number of KV
heads; rows of routed tokens, as wide as the residual stream (divided by tp / expert_tp)."""

STYLES = {
    "colwise": COLUMN, "packed_colwise": COLUMN, "column": COLUMN, "rowwise": ROW, "packed_rowwise": ROW, "row": ROW,
    "colwise_rep": VOCAB, "colwise_gather_output": VOCAB, "embedding_rowwise": VOCAB, "vocab": VOCAB,
    "replicate": REPLICATE, "replicated_with_grad_allreduce": REPLICATE, "moe_tp_experts": REPLICATE,
}  # fmt: skip
"""Styles of a plan: those of transformers 5 (``integrations/tensor_parallel.py``) and four words of our own."""

NAMES = (
    (VOCAB, r"embed_tokens|wte|word_embeddings|tok_embeddings|embed_in|lm_head|embed_out|output_layer|^output"),
    (ROW, (r"o_proj|out_proj|c_proj|wo|to_out\.0|out_lin|down_proj|w2|fc2|fc_out|dense_4h_to_h|lin2|linear2|linear_fc2|linear_proj"
          r"|output\.dense|(?:self_)?attention\.dense|self_attn\.dense|attn\.proj")),
    (COLUMN, (r"[qkv]_proj|qkv|qkv_proj|c_attn|Wqkv|query|key|value|query_key_value|w[qkv13]|to_[qkv]|q_b_proj|kv_b_proj|[qkv]_lin"
             r"|gate_proj|up_proj|gate_up_proj|fc1|fc_in|c_fc|dense_h_to_4h|wi(?:_[01])?|lin1|linear1|linear_fc1|linear_qkv"
             r"|intermediate\.dense|in_proj_weight|in_proj_bias")),
)  # fmt: skip
"""Ends of the paths of vocabulary, row and column products in Hugging Face, torchtitan, timm and Megatron code."""
PATTERNS = tuple((split, re.compile(rf"(?:^|\.)(?:{names})$")) for split, names in NAMES)
KEYS_AND_VALUES = re.compile(r"(?:^|\.)(?:[kv]_proj|key|value|w[kv]|to_[kv]|[kv]_lin)$")
QUERIES = re.compile(r"(?:^|\.)(?:q_proj|query|wq|to_q|q_lin)$")
EXPERTS = re.compile(r"(?:^|\.)experts(?:\.|$)")
ADAPTER = re.compile(r"\.lora_([AB])\b.*$")
WRAPPERS = re.compile(r"\.base_layer\b|\b(?:base_model\.model|_orig_mod|_checkpoint_wrapped_module)\.")


def plain_path(module: str) -> str:
    """Return a module's path without what wraps modules (peft, torch.compile, checkpointing)."""
    return WRAPPERS.sub("", module)


def owner(tensor: TracedTensor) -> str:
    """Return the path a parameter, its gradient or its state is known by.

    That is its module's, or its own where it is no ``weight`` or ``bias`` (stacked experts, ``in_proj_weight``).
    """
    path, leaf = plain_path(tensor.module), tensor.name.partition(".")[0]
    return path if leaf in {"weight", "bias", ""} else f"{path}.{leaf}"


def split_of(path: str, plan: Mapping[str, str] | None = None) -> int:
    """Return how the product at ``path`` is divided: COLUMN, ROW, VOCAB or REPLICATE.

    Args:
        path: of the module, layer numbers as ``*``.
        plan: end of a path -> style; it goes before the names, which know what the plan leaves out.

    Raises:
        UnknownNameError: a style of the plan is not known.
    """
    adapter = ADAPTER.search(path)
    if adapter:  # A reads what a row product reads, B writes what a column product writes
        base = split_of(path[: adapter.start()], plan)
        return base if (adapter[1], base) in {("A", ROW), ("B", COLUMN)} else REPLICATE
    for key, style in (plan or {}).items():
        if path == key or path.endswith(f".{key}"):
            if style not in STYLES:
                raise UnknownNameError("sharding style", style, tuple(STYLES), place=f"plan: {key}")
            return STYLES[style]
    return next((split for split, pattern in PATTERNS if pattern.search(path)), REPLICATE)


@dataclass(frozen=True, slots=True)
class Matrix:
    """A parameter of two dimensions or more, told apart: ``inputs`` and ``outputs`` of its product."""

    path: str
    split: int
    inputs: int
    outputs: int


@dataclass(frozen=True, slots=True)
class Regions:
    """Where the column and row products of a model are.

    Args:
        matrices: by path. norms: widths of vectors, by path.
        containers: deepest modules that hold both a column and a row product -> widths their column products read.
        hidden: widths of the residual stream.
    """

    matrices: dict[str, Matrix]
    norms: dict[str, int]
    containers: dict[str, frozenset[int]]
    hidden: frozenset[int]


def regions(parameters: Iterable[TracedTensor], plan: Mapping[str, str] | None = None) -> Regions:
    """Return where the column and row products of a model are."""
    parameters = list(parameters)
    vectors = {owner(tensor): tensor.shape[0] for tensor in parameters if len(tensor.shape) == 1}
    matrices = {}
    for tensor in parameters:
        if len(tensor.shape) > 1:
            path = owner(tensor)
            matrices[path] = _matrix(path, tensor.shape, split_of(path, plan), bias=vectors.get(path))
    splits = matrices.values()
    above_rows = {above for matrix in splits if matrix.split == ROW for above in _above(matrix.path)}
    containers: dict[str, frozenset[int]] = {}
    for matrix in splits:
        near = next((above for above in _above(matrix.path) if above in above_rows), None)
        if matrix.split == COLUMN and near is not None:
            containers[near] = containers.get(near, frozenset()) | {matrix.inputs}
    hidden = {matrix.outputs for matrix in splits if matrix.split == ROW}
    return Regions(
        matrices,
        {path: width for path, width in vectors.items() if path not in matrices},
        containers,
        frozenset(hidden),
    )


def _matrix(path: str, shape: tuple[int, ...], split: int, *, bias: int | None) -> Matrix:
    """Tell inputs from outputs: the last dimension is read, but where the bias has its size (GPT-2's Conv1D)."""
    turned = bias is not None and bias == shape[-1] != shape[-2]
    return Matrix(path, split, shape[-2] if turned else shape[-1], shape[-1] if turned else shape[-2])


def treatment(tensor: TracedTensor, where: Regions, plan: Mapping[str, str] | None = None) -> int:
    """Return how tensor parallelism treats an activation or temporary: DIVIDED, SEQUENCE, KV or ROUTED.

    Inside a container a tensor is divided unless it is made by the row product or after it, by a norm of what the column products
    read, by a product that is not divided (a router, MLA's down-projections), or, where the container is a whole layer, is as
    wide as the residual stream.
    """
    module = plain_path(tensor.module)
    wide = bool(tensor.shape) and tensor.shape[-1] in where.hidden
    split = split_of(module, plan) if module in where.matrices or ADAPTER.search(module) else None
    if EXPERTS.search(module):
        return ROUTED if wide else DIVIDED
    if split in {COLUMN, ROW, VOCAB}:
        if split == COLUMN:
            return KV if KEYS_AND_VALUES.search(module) else DIVIDED
        return DIVIDED if split == VOCAB and not wide else SEQUENCE
    near = next((path for path in (module, *_above(module)) if path in where.containers), None)
    if near is None:
        return DIVIDED if _as_logits(tensor, where) else SEQUENCE
    if split == REPLICATE or where.norms.get(module) in where.containers[near]:
        return SEQUENCE
    branch = ".".join(module.split(".")[: near.count(".") + 2])
    inside = {m.split for m in where.matrices.values() if m.path == branch or m.path.startswith(f"{branch}.")}
    if module != near and ROW in inside and COLUMN not in inside:
        return SEQUENCE
    layer = near.endswith("*") or any(other.startswith(f"{near}.") for other in where.containers)
    return SEQUENCE if layer and wide else DIVIDED


def _as_logits(tensor: TracedTensor, where: Regions) -> bool:
    """Tell whether a tensor outside all layers is as wide as a vocabulary matrix (the loss computes on such)."""
    wide = {m.outputs for m in where.matrices.values() if m.split == VOCAB}
    return len(tensor.shape) > 1 and tensor.shape[-1] in wide - where.hidden


def _above(path: str) -> list[str]:
    """Return every path above ``path``, deepest first."""
    parts = path.split(".")
    return [".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1)]
