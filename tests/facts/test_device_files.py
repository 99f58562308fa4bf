"""Device files people write, catalogue folders, and files written in malice or by accident."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytebound.documents.device import Machine
from bytebound.errors import ByteboundError, DocumentError, QuantityError, UnknownNameError
from bytebound.facts.devices import devices, find_device
from bytebound.facts.machines import find_machine
from bytebound.facts.prices import rental

SPEC = """
id = "my-chip"
name = "My chip"
kind = "asic"
memory = "80GiB"
memory_bandwidth = "3.35TB/s"
bf16 = "989TFLOP/s"
int8 = "1979TOP/s"
scaleup = "450GB/s"
scaleup_devices = 8
scaleout = "400Gb/s"
host = "64GB/s"
power = "700W"
price = "$2/h"
source = "my data sheet"
"""

LEAST = 'memory = "24GiB"\nmemory_bandwidth = "1TB/s"\nbf16 = "100TFLOP/s"\n'


@pytest.fixture
def write(tmp_path):
    def writer(text, name="chip.toml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return writer


def test_a_spec_sheet(write):
    machine = find_machine(f"8x {write(SPEC)}")
    device = machine.device

    assert device.id == "my-chip"
    assert device.memory_bytes.value == 80 * 2**30
    assert device.memory_bytes_per_s.value == 3.35e12
    assert device.flop_per_s["bf16"].value == 989e12
    assert device.flop_per_s["int8"].unit == "OP/s"
    assert device.scaleup_bytes_per_s.value == 450e9
    assert device.scaleout_bytes_per_s.value == 50e9
    assert device.power_w.value == 700
    assert device.memory_bytes.source == "my data sheet"
    assert machine.usd_per_device_hour.value == 2
    assert machine.devices == 8


def test_the_least_a_file_must_say(write):
    device = find_device(write(LEAST, "My Chip 3.toml"))

    assert device.id == "my-chip-3"
    assert "My Chip 3.toml" in device.memory_bytes.source


def test_intervals_and_sources_of_one_figure(write):
    text = LEAST.replace(
        '"1TB/s"',
        '{ value = "1TB/s", low = "0.9TB/s", high = "1.1TB/s", how = "measured", source = "STREAM", when = "2026-11-20" }',
    )
    figure = find_device(write(text)).memory_bytes_per_s

    assert (figure.value, figure.low, figure.high, figure.how, figure.source, figure.when) == (
        1e12,
        0.9e12,
        1.1e12,
        "measured",
        "STREAM",
        "2026-11-20",
    )


def test_base_is_overridden_and_the_rest_keeps_its_source(write):
    device = find_device(write('base = "h100-sxm"\nmemory = "94GiB"\n'))

    assert device.memory_bytes.value == 94 * 2**30
    assert device.memory_bytes_per_s == find_device("h100-sxm").memory_bytes_per_s
    assert device.family == "nvidia-hopper"
    assert device.id == "chip"


def test_base_completes_an_incomplete_row(write):
    assert find_device(write('base = "graviton4"\nmemory = "768GiB"\n')).flop_per_s["fp32"].value > 1e12


def test_a_machine_file(write):
    machine = find_machine(write('device = "h100-sxm"\nper_node = 8\nnodes = 4\nprice = "$2.10/h"\n', "cluster.toml"))

    assert (machine.nodes, machine.per_node, machine.devices) == (4, 8, 32)
    assert machine.device == find_device("h100-sxm")
    assert machine.usd_per_device_hour.value == 2.1


def test_a_file_named_like_a_device_does_not_get_its_price(write):
    assert find_machine(write(LEAST, "l4.toml")).usd_per_device_hour is None
    assert find_machine(write('id = "l4"\n' + LEAST, "mine.toml")).usd_per_device_hour == rental("l4")
    assert find_machine(write('device = "l4"\nnodes = 2\n', "two.toml")).usd_per_device_hour == rental("l4")


def test_a_path_object(write):
    assert find_machine(Path(write(SPEC))).device.id == "my-chip"


def test_json_spec_and_document(write):
    spec = {"memory": "24GiB", "memory_bandwidth": "1TB/s", "bf16": "100TFLOP/s"}
    assert find_device(write(json.dumps(spec), "a.json")).memory_bytes.value == 24 * 2**30

    document = find_device("l4").model_dump_json(by_alias=True)
    assert find_device(write(document, "b.json")) == find_device("l4")


@pytest.mark.parametrize(
    ("line", "error", "word"),
    [
        ('memroy = "1GiB"', UnknownNameError, "memory"),
        ('memory_bandwith = "1TB/s"', UnknownNameError, "memory_bandwidth"),
        ('memory = "80G"', QuantityError, "GiB"),
        ('memory = "80"', QuantityError, "no unit"),
        ("memory = 80", QuantityError, "no unit"),
        ("memory = 85899345920", QuantityError, "no unit"),
        ("memory = nan", QuantityError, "no unit"),
        ('memory = "nanGiB"', QuantityError, "finite"),
        ('memory = "1e400GiB"', QuantityError, "finite"),
        ('memory = "-80GiB"', QuantityError, "any machine"),
        ('memory = "0GiB"', QuantityError, "any machine"),
        ('memory = "80EB"', QuantityError, "any machine"),
        ('memory = "80TFLOP/s"', QuantityError, "bytes"),
        ('memory_bandwidth = "3.35 parsec"', QuantityError, "bytes per second"),
        ('bf16 = "989"', QuantityError, "no unit"),
        ('bf16 = "989TB/s"', QuantityError, "FLOP"),
        ("bf16 = true", QuantityError, "no unit"),
        ("bf16 = [1, 2]", QuantityError, "no unit"),
        ("bf16 = 1979-01-01", QuantityError, "no unit"),
        ('power = "1e30W"', QuantityError, "any machine"),
        ('price = "-1$/h"', QuantityError, "any machine"),
        ('kind = "toaster"', DocumentError, "gpu"),
        ('id = "../etc/passwd"', DocumentError, "pattern"),
        ("id = 3", DocumentError, "text"),
        ('name = "' + "x" * 3000 + '"', DocumentError, "text"),
        ('base = "h100"', UnknownNameError, "h100-sxm"),
        ("scaleup_devices = 0", QuantityError, "outside"),
        ("scaleup_devices = 1.5", QuantityError, "whole"),
        ("nodes = 1000000000", QuantityError, "outside"),
        ('memory = { low = "1GiB" }', DocumentError, "value"),
        ('memory = { value = "1GiB", lo = "1GiB" }', UnknownNameError, "low"),
        ('memory = { value = "2GiB", low = "3GiB" }', DocumentError, "order"),
        ('memory = { value = "2GiB", how = "guessed" }', DocumentError, "cited"),
    ],
)  # fmt: skip
def test_wrong_lines_are_named_by_file_line_and_key(write, line, error, word):
    key = line.split(" ")[0]
    kept = [text for text in LEAST.splitlines() if not text.startswith(f"{key} ")]
    path = write("\n".join([*kept, line]))

    with pytest.raises(error) as caught:
        find_machine(path)
    message = str(caught.value)
    assert word in message
    assert f"{path}:{len(kept) + 1}" in message
    assert key in message
    assert len(message) < 700


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"memory = ", "a.toml"),
        (b'memory = "80Gi', "a.toml"),
        (b"\xff\xfe\x00", "a.toml"),
        (b"", "a.toml"),
        (b"[[[[", "a.toml"),
        (b"a = " + b"[" * 100_000, "a.toml"),
        (b"x = 1\n" * 300_000, "a.toml"),
        (b"memory = " + b"9" * 5000, "a.toml"),
        (b"{", "a.json"),
        (b"[1, 2]", "a.json"),
        (b'{"memory": NaN}', "a.json"),
        (b'{"memory": Infinity}', "a.json"),
        (b'{"a": ' * 100_000, "a.json"),
        (b'{"memory": ' + b"9" * 5000 + b"}", "a.json"),
        (b'{"schema": "bytebound.machine/1"}', "a.json"),
        (b'{"schema": "bytebound.machine/9"}', "a.json"),
        (b'{"device": {"schema": 3}}', "a.json"),
        (b'{"device": 3, "nodes": 2}', "a.json"),
        (b"null", "a.json"),
        (b"\x00" * 100, "a.json"),
    ],
)
def test_broken_and_hostile_files(write, content, name):
    with pytest.raises(ByteboundError) as caught:
        find_machine(write(content, name))

    assert caught.value.exit_code == 2
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders(tmp_path):
    for name in ("none.toml", ".toml", "\0.toml", "x" * 300 + ".toml"):
        with pytest.raises(DocumentError):
            find_machine(str(tmp_path / name))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(DocumentError):
        find_machine(str(tmp_path / "folder.toml"))


values = st.one_of(
    st.text(max_size=20), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.integers(), max_size=3),
    st.sampled_from(["80GiB", "3.35TB/s", "989TFLOP/s", "$2/h", "1e400GiB", "-1GB", "h100-sxm"]),
)  # fmt: skip
keys = st.one_of(
    st.sampled_from(
        ["memory", "memory_bandwidth", "bf16", "price", "id", "kind", "base", "device", "nodes", "schema", "source"]
    ),
    st.text(max_size=8),
)


@settings(deadline=None)  # the machine may be busy
@given(data=st.dictionaries(keys, st.one_of(values, st.dictionaries(keys, values, max_size=3)), max_size=8))
def test_any_document_is_a_device_or_one_sentence(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.json"
    path.write_text(json.dumps(data))
    found = outcome(path)

    assert isinstance(found, Machine | ByteboundError)
    if isinstance(found, ByteboundError):
        assert found.exit_code == 2
        assert len(str(found)) < 1500


def outcome(path):
    try:
        return find_machine(str(path))
    except ByteboundError as error:
        return error


@settings(deadline=None)  # the machine may be busy
@given(text=st.text(max_size=120))
def test_any_text_is_a_device_or_one_sentence(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "fuzz.toml"
    path.write_text(LEAST + text, encoding="utf-8", errors="ignore")
    found = outcome(path)

    assert isinstance(found, Machine) or found.exit_code == 2


def test_a_catalogue_folder_overrides_and_adds(tmp_path, monkeypatch):
    header = "id,name,vendor,kind,memory_bytes,memory_bytes_per_s,bf16_flop_per_s,source,date\n"
    (tmp_path / "devices.csv").write_text(header + "h100-sxm,Ours,NVIDIA,gpu,8e10,3e12,9e14,we measured,2026-11-01\n")
    (tmp_path / "new.toml").write_text('id = "new-chip"\n' + LEAST)
    (tmp_path / "prices.csv").write_text(
        "device_id,provider,usd_per_device_hour,date,source\nh100-sxm,us,1.25,2026-01-01,contract\n"
    )

    assert find_device("h100-sxm", tmp_path).memory_bytes.value == 8e10
    assert find_device("NVIDIA H100 80GB HBM3", tmp_path).name == "Ours"
    assert find_machine("4x new-chip", tmp_path).device.memory_bytes.value == 24 * 2**30
    assert rental("h100-sxm", catalogue=tmp_path).value == 1.25
    assert rental("h200-sxm", catalogue=tmp_path) == rental("h200-sxm")
    assert len(devices(tmp_path)) == 290
    assert devices(tmp_path)["new-chip"].bf16_flop_per_s == 1e14
    assert find_device("h100-sxm").name != "Ours"

    monkeypatch.setenv("BYTEBOUND_CATALOGUE", str(tmp_path))
    assert find_machine("h100-sxm").usd_per_device_hour.value == 1.25
    (tmp_path / "new.toml").write_text('id = "newer-chip"\n' + LEAST)
    assert "newer-chip" in devices()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("devices.csv", "id,nmae\nx,y\n", ["devices.csv:2", "nmae", "name"]),
        ("devices.csv", "id,name,vendor,kind,source,date\nx,y,z,gpu,s,2026-13-01\n", ["devices.csv:2", "date"]),
        (
            "devices.csv",
            "id,name,vendor,kind,memory_bytes,source,date\nx,y,z,gpu,-5,s,2026-01-01\n",
            ["devices.csv:2", "memory_bytes", "greater"],
        ),
        (
            "devices.csv",
            "id,name,vendor,kind,memory_bytes,source,date\nx,y,z,gpu,inf,s,2026-01-01\n",
            ["devices.csv:2", "memory_bytes"],
        ),
        ("devices.csv", "id,name,vendor,kind,source,date\nx,y,z,gpu,,2026-01-01\n", ["devices.csv:2", "source"]),
        ("devices.csv", "id,name\nx,y,z\n", ["devices.csv:2", "cells"]),
        ("devices.csv", 'id,name\n"x,y\n', ["devices.csv"]),
        (
            "prices.csv",
            "device_id,provider,usd_per_device_hour,date,source\nh100,us,1,2026-01-01,c\n",
            ["prices.csv:2", "device_id", "h100-sxm"],
        ),
        (
            "prices.csv",
            "device_id,provider,usd_per_device_hour,date,source\nh100-sxm,us,0,2026-01-01,c\n",
            ["prices.csv:2", "usd_per_device_hour"],
        ),
        ("bad.toml", "memroy = 1", ["bad.toml:1", "memroy", "memory"]),
    ],
)
def test_a_wrong_catalogue_names_file_line_and_key(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)

    with pytest.raises(ByteboundError) as caught:
        find_device("h100-sxm", tmp_path)
    for word in words:
        assert word in str(caught.value)


def test_a_catalogue_that_is_not_there(tmp_path):
    with pytest.raises(DocumentError, match="no such catalogue folder"):
        devices(tmp_path / "none")
