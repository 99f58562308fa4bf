"""Machine expressions: what is understood, what is refused, and that nothing else ever comes out."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytebound.documents.device import Machine
from bytebound.errors import ByteboundError, DocumentError, QuantityError, UnknownNameError
from bytebound.facts.devices import devices, find_device
from bytebound.facts.machines import find_machine, here_file

READY = sorted(name for name, row in devices().items() if not row.missing)


@pytest.mark.parametrize(
    ("text", "nodes", "per_node"),
    [
        ("h100-sxm", 1, 1),
        ("8x h100-sxm", 1, 8),
        ("8xh100-sxm", 1, 8),
        ("8 x H100-SXM", 1, 8),
        ("8×h100-sxm", 1, 8),
        ("8 * h100-sxm", 1, 8),
        ("2x(8x h100-sxm)", 2, 8),
        ("2 x ( 8 x h100-sxm )", 2, 8),
        ("3x(h100-sxm)", 3, 1),
        ("72x h100-sxm", 1, 72),
        ("  4x  h100-sxm  ", 1, 4),
    ],
)
def test_expressions(text, nodes, per_node):
    machine = find_machine(text)

    assert (machine.nodes, machine.per_node, machine.device.id) == (nodes, per_node, "h100-sxm")
    assert machine.devices == nodes * per_node


@pytest.mark.parametrize(
    "text",
    ["0x h100-sxm", "-1x h100-sxm", "1000000000x h100-sxm", "1e9x h100-sxm", "1.5x h100-sxm", "2x 8x h100-sxm", "2x(8x h100-sxm",
     "2x(0x h100-sxm)", "1000000x(100000x h100-sxm)", "", "   ", "8x", "8x()", "2x(2x(2x h100-sxm))", "1,000x h100-sxm", "9" * 50 + "x l4",
     "a" * 5000],
)  # fmt: skip
def test_bad_counts_and_brackets(text):
    with pytest.raises((QuantityError, UnknownNameError)) as caught:
        find_machine(text)

    assert caught.value.place
    assert len(str(caught.value)) < 500
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "text", ["8x h100", "junk", "8 h100-sxm", "h100-sxm x8", "8x h100-smx", "nanx h100-sxm", "٣x h100-sxm"]
)
def test_unknown_names_say_what_to_do(text):
    with pytest.raises(UnknownNameError) as caught:
        find_machine(text, place="--on")

    assert str(caught.value).startswith("--on: unknown device")


def test_price_is_attached_with_its_spread_date_and_number_of_offers():
    price = find_machine("8x h100-sxm").usd_per_device_hour

    assert 2.5 < price.value < 4.5
    assert price.low < price.value < price.high
    assert price.when >= "2026-08"
    assert "offers" in price.source
    assert "gpurentalprices.com" in price.source
    assert price.how == "derived"


def test_no_price_is_none():
    assert find_machine("m2-ultra").usd_per_device_hour is None


def test_here_without_a_measurement(tmp_path, monkeypatch):
    monkeypatch.setenv("BYTEBOUND_DATA", str(tmp_path))

    with pytest.raises(DocumentError, match="no measured machine found") as caught:
        find_machine("here")
    assert caught.value.mend.startswith("run `bytebound measure` first, or write a machine file")


def test_here_with_a_measurement(tmp_path, monkeypatch):
    monkeypatch.setenv("BYTEBOUND_DATA", str(tmp_path))
    document = find_device("rtx-4090").model_dump(by_alias=True, mode="json") | {"id": "my-pc"}
    here_file().write_text(json.dumps(document))

    assert find_machine("here").device.id == "my-pc"
    assert find_machine("2x here").devices == 2


def test_machine_document_round_trips(tmp_path):
    machine = find_machine("2x(8x h100-sxm)")
    path = tmp_path / "cluster.json"
    path.write_text(machine.model_dump_json(by_alias=True))

    again = find_machine(str(path))
    assert (again.nodes, again.per_node, again.device) == (2, 8, machine.device)
    assert again.usd_per_device_hour == machine.usd_per_device_hour
    with pytest.raises(QuantityError, match="says how many"):
        find_machine(f"2x {path}")


@settings(deadline=None)  # the machine may be busy
@given(st.sampled_from(READY), st.integers(1, 1000), st.integers(1, 1000))
def test_every_device_in_every_count(name, nodes, per_node):
    machine = find_machine(f"{nodes}x({per_node}x {name})")

    assert machine.devices == nodes * per_node
    assert machine.device.id == name


@settings(deadline=None)  # the machine may be busy
@given(
    st.one_of(st.text(max_size=60), st.from_regex(r"[0-9x×*() .,eE+-]{0,20}(h100|l4|here)?-?(sxm)?\)?", fullmatch=True))
)
def test_any_text_is_a_machine_or_one_sentence(text):
    found = outcome(text)

    assert isinstance(found, Machine | ByteboundError)
    assert str(found)
    assert "\n" not in str(found) or "\n" in text


def outcome(text):
    try:
        return find_machine(text)
    except ByteboundError as error:
        return error
