"""How a checkpoint stores each weight: the dtype of the config and its quantization, with what it leaves alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bytebound.documents.architecture import Attention, Block, Conv, Linear, Recurrence, Tower
from bytebound.errors import UnknownNameError
from bytebound.facts.formats import find_format
from bytebound.models.patterns import matches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bytebound.documents.architecture import Architecture, Operator
    from bytebound.models.keys import Keys

DTYPES = {
    "float32": "fp32", "float": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16", "auto": "bf16",
    "float8_e4m3fn": "bf16",
}  # fmt: skip
"""Names of ``torch_dtype``; an 8-bit one belongs to the quantization, and the rest of such a file is bf16."""

FAR_BELOW = ("head", "router", "embedding")
"""Roles that methods without a list of targets never quantize."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """What one quantization does.

    Args:
        format: storage format of the weights it converts.
        targets: patterns of the modules it converts; empty means every linear layer.
        ignore: patterns of the modules it leaves alone.
        roles: roles it converts; empty means all but ``FAR_BELOW``.
        place: where it is written.
    """

    format: str
    targets: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    place: str = ""

    def converts(self, name: str, role: str) -> bool:
        """Tell whether the weight of the module ``name`` is stored in this scheme's format."""
        if role not in self.roles if self.roles else role in FAR_BELOW:
            return False
        if self.targets and not matches(name, self.targets, self.place):
            return False
        return not matches(name, self.ignore, self.place)


def written_dtype(keys: Keys) -> tuple[Keys, str, str] | None:
    """Return where a config names its dtype, and the name; None where it does not."""
    inner = [
        keys.maybe_child(name) for name in ("text_config", "llm_config") if isinstance(keys.values.get(name), dict)
    ]
    for holder in filter(None, [keys, *inner]):
        for key in ("torch_dtype", "dtype"):
            named = holder.word(key, "").removeprefix("torch.")
            if named:
                return holder, key, named
    return None


def checkpoint_dtype(keys: Keys) -> str:
    """Return the format of everything a checkpoint does not quantize, bf16 where the config does not say.

    Raises:
        UnknownNameError: a dtype that is not known.
    """
    found = written_dtype(keys)
    if found is None:
        return "bf16"
    holder, key, named = found
    if named not in DTYPES:
        raise UnknownNameError("torch_dtype", named, DTYPES, place=holder.place(key))
    return DTYPES[named]


def quantize(towers: Iterable[Tower], keys: Keys, *, dtype: str) -> list[Tower]:
    """Return the towers with the storage of every weight set.

    Quantization concerns the decoder and its draft layers where there is a decoder, and every tower otherwise.
    """
    towers = list(towers)
    schemes = read_schemes(keys)
    decodes = any(tower.kind == "decoder" for tower in towers)
    found = []
    for tower in towers:
        chosen = schemes if not decodes or tower.kind in ("decoder", "draft") else ()
        blocks = tuple(
            Block(block.name, tuple(_stored(op, block.name, chosen, dtype) for op in block.operators), block.repeat)
            for block in tower.blocks
        )
        found.append(replace(tower, blocks=blocks))
    return found


def _stored(operator: Operator, prefix: str, schemes: tuple[Scheme, ...], dtype: str) -> Operator:
    if isinstance(operator, (Attention, Recurrence)) or operator.stored != "bf16":
        return operator
    stored = dtype
    if isinstance(operator, Linear):
        name = f"{prefix}{operator.name}"
        stored = next((scheme.format for scheme in schemes if scheme.converts(name, operator.role)), dtype)
    if stored == dtype == "bf16":
        return operator
    if isinstance(operator, (Linear, Conv)):
        return replace(operator, stored=stored, bias_stored=dtype)
    return replace(operator, stored=stored)


def checkpoint_bytes(architecture: Architecture, *, draft: bool = True) -> int:
    """Return the bytes of a checkpoint's weights: scales included, tied matrices once, norms and biases in its dtype.

    Args:
        architecture: the model.
        draft: whether multi-token-prediction layers count.
    """
    total = 0
    for tensor in architecture.tensors(draft=draft):
        if not tensor.tied:
            total += find_format(tensor.stored).tensor_bytes(tensor.shape) * tensor.copies
    return total


# ---- reading quantization_config


def read_schemes(keys: Keys) -> tuple[Scheme, ...]:
    """Return what a config's quantization does, most specific first; nothing when it has none.

    Raises:
        UnknownNameError: the method is not known.
        DocumentError: a damaged entry.
    """
    holder = keys
    for name in ("text_config", "llm_config"):
        if not keys.has("quantization_config") and isinstance(keys.values.get(name), dict):
            inner = keys.maybe_child(name)
            holder = inner if inner is not None and inner.has("quantization_config") else holder
    config = holder.maybe_child("quantization_config")
    if config is None:
        return ()
    config.skip(*config.values)
    method = config.word("quant_method", "").lower()
    if not method or method == "modelopt":
        method = "modelopt" if config.has("quant_algo") or config.has("quantization") else method
    reader = METHODS.get(method)
    if reader is None:
        raise UnknownNameError("quantization method", method, METHODS, place=config.place("quant_method"))
    found = reader(config)
    experts = keys.word("expert_dtype", "")
    if experts:
        known = {"fp4": "mxfp4", "mxfp4": "mxfp4", "fp8": "fp8-block128", "bf16": "bf16"}
        if experts not in known:
            raise UnknownNameError("expert_dtype", experts, known, place=keys.place("expert_dtype"))
        found = (Scheme(known[experts], roles=("expert",), place=keys.place("expert_dtype")), *found)
    return found


def _ignored(config: Keys, *names: str) -> tuple[str, ...]:
    return tuple(pattern for name in names for pattern in config.words(name) or ())


def _fp8(config: Keys) -> tuple[Scheme, ...]:
    ignore = _ignored(config, "modules_to_not_convert", "ignored_layers")
    block = config.ints("weight_block_size", least=1)
    if block is None:
        return (Scheme("fp8-tensor", ignore=ignore, place=config.place("quant_method")),)
    known = {"128,128": "fp8-block128", "1,32": "mxfp8", "32,32": "mxfp8"}
    written = ",".join(str(size) for size in block)
    if written not in known:
        raise UnknownNameError("fp8 weight_block_size", written, known, place=config.place("weight_block_size"))
    return (Scheme(known[written], ignore=ignore, place=config.place("weight_block_size")),)


def _mxfp4(config: Keys) -> tuple[Scheme, ...]:
    ignore = _ignored(config, "modules_to_not_convert")
    return (Scheme("mxfp4", ignore=ignore, roles=("expert",), place=config.place("quant_method")),)


def _channel_fp8(config: Keys) -> tuple[Scheme, ...]:
    return (Scheme("fp8", ignore=_ignored(config, "modules_to_not_convert"), place=config.place("quant_method")),)


def integer_format(bits: int, group: int, *, zeros: bool = False) -> str | None:
    """Return the weight-only format of ``bits`` per value and ``group`` values per scale (0: a whole row)."""
    if bits == 8:
        return "int8-wo"
    if bits != 4:
        return None
    if group in (0, 128):
        return "awq" if zeros and group else "int4"
    return {32: "int4-g32", 64: "int4-g64"}.get(group)


def _grouped(config: Keys) -> tuple[Scheme, ...]:
    """Read GPTQ, AWQ, AutoRound and HQQ: bits and group size."""
    bits = config.int("bits", also=("w_bit", "nbits", "wbits"), most=32)
    group = config.int("group_size", 128, also=("q_group_size",), least=-1)
    zeros = config.word("quant_method", "") == "awq" and config.flag("zero_point", default=True)
    named = integer_format(bits, max(group, 0), zeros=zeros)
    if named is None:
        written = f"{bits} bits in groups of {group}"
        known = ["4 bits in groups of 32", "4 bits in groups of 64", "4 bits in groups of 128", "8 bits"]
        raise UnknownNameError("integer quantization", written, known, place=config.place("bits"))
    ignore = _ignored(config, "modules_to_not_convert", "ignored_layers")
    head = config.values.get("lm_head") is True
    roles = ("attention", "mlp", "expert", "mixer", "other", "head") if head else ()
    return (Scheme(named, ignore=ignore, roles=roles, place=config.place("bits")),)


def _bitsandbytes(config: Keys) -> tuple[Scheme, ...]:
    ignore = _ignored(config, "llm_int8_skip_modules")
    place = config.place("quant_method")
    if config.flag("load_in_4bit", default=False, also=("_load_in_4bit",)):
        double = config.flag("bnb_4bit_use_double_quant", default=False)
        return (Scheme("nf4-dq" if double else "nf4", ignore=ignore, place=place),)
    if config.flag("load_in_8bit", default=False, also=("_load_in_8bit",)):
        return (Scheme("int8-wo", ignore=ignore, place=place),)
    raise config.error("load_in_4bit", "neither 4-bit nor 8-bit loading is on", "set load_in_4bit or load_in_8bit")


MODELOPT = {
    "FP8": "fp8-tensor", "FP8_PER_CHANNEL_PER_TOKEN": "fp8", "FP8_PB_WO": "fp8-block128", "FP8_BLOCK_SCALES": "fp8-block128",
    "NVFP4": "nvfp4", "W4A16_NVFP4": "nvfp4", "NVFP4_AWQ": "nvfp4", "W4A16_AWQ": "awq", "W4A8_AWQ": "awq",
    "INT4_AWQ": "awq", "W8A16": "int8-wo", "W8A8_SQ_PER_CHANNEL": "int8", "INT8": "int8", "MXFP8": "mxfp8",
    "W4A8_MXFP4_FP8": "mxfp4", "MXFP4": "mxfp4",
}  # fmt: skip
"""Formats of NVIDIA Model Optimizer's ``quant_algo``."""


def _modelopt(config: Keys) -> tuple[Scheme, ...]:
    inner = config.maybe_child("quantization") or config
    inner.skip(*inner.values)
    ignore = _ignored(inner, "exclude_modules", "ignore")
    place = inner.place("quant_algo")
    algorithm = inner.word("quant_algo", "")
    if algorithm == "MIXED_PRECISION":
        layers = inner.child("quantized_layers")
        groups: dict[str, list[str]] = {}
        for name in layers.values:
            entry = layers.child(name)
            entry.skip(*entry.values)
            groups.setdefault(entry.word("quant_algo", ""), []).append(name)
        return tuple(
            Scheme(_known(MODELOPT, algorithm, place), targets=tuple(names), roles=_ALL, place=place)
            for algorithm, names in groups.items()
        )
    return (Scheme(_known(MODELOPT, algorithm, place), ignore=ignore, roles=_ALL, place=place),)


_ALL = ("attention", "mlp", "expert", "mixer", "other", "head", "conv")
"""Roles that methods with lists of targets and ignored modules may convert."""


def _known(table: dict[str, str], name: str, place: str) -> str:
    if name not in table:
        raise UnknownNameError("quantization algorithm", name, table, place=place)
    return table[name]


def _compressed_tensors(config: Keys) -> tuple[Scheme, ...]:
    ignore = _ignored(config, "ignore")
    groups = config.child("config_groups")
    found = []
    for name in groups.values:
        entry = groups.child(name)
        entry.skip(*entry.values)
        targets = entry.words("targets") or ()
        classes = {"Linear", "MoE", "FusedMoE", "RowParallelLinear", "ColumnParallelLinear"}
        named = tuple(target for target in targets if target not in classes)
        weights = entry.maybe_child("weights")
        if weights is not None:
            weights.skip(*weights.values)
            acts = entry.has("input_activations")
            scheme = Scheme(_compressed(weights, activations=acts), named, ignore, _ALL, config.place("config_groups"))
            found.append(scheme)
    return tuple(sorted(found, key=lambda scheme: not scheme.targets))


def _compressed(weights: Keys, *, activations: bool) -> str:
    """Return the format of a compressed-tensors weight entry."""
    bits = weights.int("num_bits", most=32)
    kind = weights.word("type", "int")
    group = weights.int("group_size", 0, least=-1)
    strategy = weights.word("strategy", "group" if group > 0 else "tensor" if kind == "float" else "channel")
    table = {
        ("float", 8, "tensor"): "fp8-tensor", ("float", 8, "channel"): "fp8", ("float", 8, "block"): "fp8-block128",
        ("float", 8, "group"): "mxfp8", ("float", 4, "tensor_group"): "nvfp4",
        ("float", 4, "group"): "nvfp4" if group == 16 else "mxfp4",
        ("int", 8, "channel"): "int8" if activations else "int8-wo", ("int", 8, "tensor"): "int8",
        ("int", 8, "group"): "int8-wo", ("int", 4, "channel"): "int4",
        ("int", 4, "group"): integer_format(4, group) or "",
    }  # fmt: skip
    named = table.get((kind, bits, strategy), "")
    if not named:
        written = f"{kind} {bits} {strategy} {group or ''}".strip()
        known = [f"{kind} {bits} {strategy}" for kind, bits, strategy in table]
        raise UnknownNameError("compressed-tensors weights", written, known, place=weights.place("num_bits"))
    return named


TORCHAO = {
    "int4_weight_only": "int4", "Int4WeightOnlyConfig": "int4", "int8_weight_only": "int8-wo",
    "Int8WeightOnlyConfig": "int8-wo", "int8_dynamic_activation_int8_weight": "int8",
    "Int8DynamicActivationInt8WeightConfig": "int8", "int8_dynamic_activation_int4_weight": "int4-g32",
    "Int8DynamicActivationIntxWeightConfig": "int4-g32", "Int8DynamicActivationInt4WeightConfig": "int4-g32",
    "float8_weight_only": "fp8-tensor", "Float8WeightOnlyConfig": "fp8-tensor",
    "float8_dynamic_activation_float8_weight": "fp8-tensor", "Float8DynamicActivationFloat8WeightConfig": "fp8-tensor",
}  # fmt: skip
"""Formats of torchao's ``quant_type``."""


def _torchao(config: Keys) -> tuple[Scheme, ...]:
    place = config.place("quant_type")
    ignore = _ignored(config, "modules_to_not_convert")
    kind = config.values.get("quant_type")
    group = 0
    if isinstance(kind, dict):
        entry = config.child("quant_type").child("default")
        entry.skip(*entry.values)
        kind = entry.word("_type", "")
        data = entry.maybe_child("_data")
        group = data.int("group_size", 0, least=-1) if data is not None else 0
    named = _known(TORCHAO, str(kind), place)
    if named.startswith("int4") and group > 0:
        named = integer_format(4, group) or named
    return (Scheme(named, ignore=ignore, place=place),)


def _quanto(config: Keys) -> tuple[Scheme, ...]:
    table = {"int8": "int8-wo", "int4": "int4", "float8": "fp8"}
    place = config.place("weights")
    named = _known(table, config.word("weights", ""), place)
    return (Scheme(named, ignore=_ignored(config, "modules_to_not_convert"), place=place),)


METHODS: dict[str, Callable[[Keys], tuple[Scheme, ...]]] = {
    "auto-round": _grouped, "auto_gptq": _grouped, "awq": _grouped, "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed_tensors, "fbgemm_fp8": _channel_fp8, "fp8": _fp8, "gptq": _grouped,
    "hqq": _grouped, "intel/auto-round": _grouped, "modelopt": _modelopt, "modelopt_fp4": _modelopt, "mxfp4": _mxfp4,
    "quanto": _quanto, "torchao": _torchao,
}  # fmt: skip
"""Readers by ``quant_method``."""
