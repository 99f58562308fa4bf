"""Models known by their published dimensions alone: one row each, rendered as the config its family reads."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from bytebound.facts.tables import read_table

if TYPE_CHECKING:
    from collections.abc import Mapping

TABLE = "model_shapes.csv"

USUAL = {
    "layers_count": "num_hidden_layers",
    "hidden_count": "hidden_size",
    "heads_count": "num_attention_heads",
    "kv_heads_count": "num_key_value_heads",
    "head_dim_count": "head_dim",
    "intermediate_count": "intermediate_size",
    "vocab_count": "vocab_size",
    "context_tokens": "max_position_embeddings",
}
"""Column -> key of a config. Source: the configuration classes of transformers."""

OTHER_KEYS: Mapping[str, Mapping[str, str]] = {
    "bloom": {"layers_count": "n_layer", "heads_count": "n_head"},
    "gpt2": {
        "layers_count": "n_layer",
        "hidden_count": "n_embd",
        "heads_count": "n_head",
        "context_tokens": "n_positions",
    },
    "opt": {"intermediate_count": "ffn_dim"},
}
"""Family -> the columns it has another key for."""


@cache
def shape_rows() -> Mapping[str, Mapping[str, str]]:
    """Return the rows of the table by model id."""
    return {cells["id"]: cells for _, cells in read_table(TABLE)}


@cache
def shape_aliases() -> Mapping[str, str]:
    """Return every other name of these models (lower case) and the id it stands for."""
    return {alias: id_ for id_, cells in shape_rows().items() for alias in cells["aliases"].split("|") if alias}


def shape_config(cells: Mapping[str, str]) -> dict[str, Any]:
    """Return a row as the object of a ``config.json``; blank cells are absent, ``more`` holds what only its family reads.

    Example:
        >>> shape_config(shape_rows()["bigscience/bloom"])["n_layer"]
        70
    """
    keys = {**USUAL, **OTHER_KEYS.get(cells["family"], {})}
    config: dict[str, Any] = {"model_type": cells["family"], "torch_dtype": "bfloat16"}
    config |= {key: int(cells[column]) for column, key in keys.items() if cells[column]}
    if cells["tied"]:
        config["tie_word_embeddings"] = cells["tied"] == "true"
    if cells["more"]:
        config |= json.loads(cells["more"])
    return config


def shape_fields(cells: Mapping[str, str]) -> dict[str, Any]:
    """Return a row as the fields of a bundled model's record."""
    active = int(cells["active_count"] or 0)
    return {
        "id": cells["id"],
        "family": cells["family"],
        "shape": shape_config(cells),
        "total": int(cells["total_count"]),
        "total_source": f"published: {cells['source']}",
        "active": active,
        "active_source": cells["source"] if active else "",
        "licence": "",
    }
