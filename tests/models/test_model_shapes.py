"""Models known by their dimensions alone: each has as many parameters as was published."""

import pytest

from bytebound.facts.tables import read_table
from bytebound.models import read_model
from bytebound.models.catalogue import model_ids, record, resolve
from bytebound.models.shapes import shape_aliases, shape_config, shape_rows

HEADLINE = 0.02
"""A count rounded in a title, or one with the layer that predicts a second token, which our reader leaves out."""

EXACT = 1e-4
"""Norms and router biases some checkpoints hold beside the class's own parameters."""


@pytest.mark.parametrize("model", sorted(shape_rows()))
def test_as_many_parameters_as_published(model):
    cells = shape_rows()[model]
    published = int(cells["total_count"])
    second = '"num_nextn_predict_layers":1' in cells["more"] or '"mtp_num_hidden_layers":1' in cells["more"]
    loose = published % 10**6 == 0 or second
    assert read_model(model).parameters == pytest.approx(published, rel=HEADLINE if loose else EXACT)


def test_most_counts_are_exact():
    exact = [cells for cells in shape_rows().values() if int(cells["total_count"]) % 10**6]
    assert len(exact) > 0.8 * len(shape_rows())


@pytest.mark.parametrize("model", [name for name, cells in shape_rows().items() if cells["active_count"]])
def test_active_parameters(model):
    # A card may leave out the embedding and the output matrix, a sixth of the smallest of these models.
    assert read_model(model).active_parameters == pytest.approx(int(shape_rows()[model]["active_count"]), rel=0.2)


def test_ids_are_no_bundled_models_and_each_stands_once():
    ids = [cells["id"] for _, cells in read_table("model_shapes.csv")]
    assert len(ids) == len(set(ids)) == len(shape_rows())
    assert len(model_ids()) == len(set(model_ids()))
    assert set(ids) < set(model_ids())


def test_an_alias_is_no_id_and_stands_for_one_model():
    listed = [alias for cells in shape_rows().values() for alias in cells["aliases"].split("|") if alias]
    assert len(listed) == len(set(listed)) == len(shape_aliases())
    assert not set(listed) & {name.lower() for name in model_ids()}
    for alias, model in shape_aliases().items():
        assert resolve(alias.upper()) == model


def test_every_row_names_its_source():
    for cells in shape_rows().values():
        assert cells["source"]
        assert cells["how"] in {"cited", "derived"}


def test_a_row_is_rendered_as_the_config_its_family_reads():
    config = shape_config(shape_rows()["facebook/opt-6.7b"])
    assert config["model_type"] == "opt"
    assert config["ffn_dim"] == 16384
    assert "intermediate_size" not in config
    assert record("bloom-176b").shape["n_layer"] == 70
    assert record("mixtral-8x22b").active == 39_100_000_000


def test_the_nvfp4_checkpoint_keeps_attention_in_16_bits():
    stored = {
        op.name: op.stored
        for tower in read_model("nvidia/DeepSeek-R1-NVFP4").towers
        for block in tower.blocks
        for op in block.operators
        if hasattr(op, "stored")
    }
    assert {stored[name] for name in stored if "experts" in name} == {"nvfp4"}
    assert {stored[name] for name in stored if "self_attn" in name} == {"bf16"}
