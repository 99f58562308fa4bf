"""Real configs that a package carries: ``pip install --no-deps aiconfigurator-core`` (Apache-2.0), never committed here."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from bytebound.errors import ByteboundError
from bytebound.models.config import read_config

SPEC = importlib.util.find_spec("aiconfigurator_core")
FOUND = sorted((Path(SPEC.origin).parent / "model_configs").glob("*_config.json")) if SPEC and SPEC.origin else []
CONFIGS = [
    path for path in FOUND if "model_type" in json.loads(path.read_text(encoding="utf-8"))
]  # not quantization files
UNREAD = {"minimax_m3_vl": "its image tower is described in code only", "deepseek_ref": "DeepSeek's own reference keys"}

pytestmark = [
    pytest.mark.packages,
    pytest.mark.skipif(not CONFIGS, reason="needs the package aiconfigurator-core for its model configs"),
]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_carried_config_is_read_or_named(path):
    """Each config gives an architecture of its headline size, or an error that names its family."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if config["model_type"] in UNREAD:
        with pytest.raises(ByteboundError, match=config["model_type"]):
            read_config(path)
        return

    architecture = read_config(path)

    assert 1e8 < architecture.active_parameters <= architecture.parameters < 4e12
    assert architecture.kv_elements_per_token > 0
