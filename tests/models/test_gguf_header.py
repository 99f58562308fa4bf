"""GGUF headers are read exactly, and hostile ones refused."""

import struct

import pytest
from tiny_files import ARRAY, I32, SIZES, STRING, U32, U64, gguf, llama, nbytes, text

from bytebound.errors import DocumentError, UnknownNameError
from bytebound.facts.formats import find_format
from bytebound.models.families import registry
from bytebound.models.ggml_types import GGML_TYPES, REFUSED_TYPES
from bytebound.models.gguf import read_gguf, read_gguf_header
from bytebound.models.gguf_header import GgufArray
from bytebound.models.gguf_keys import FAMILY


def _write(path, metadata, tensors, **how):
    path.write_bytes(gguf(metadata, tensors, **how))
    return path


@pytest.fixture
def tiny(tmp_path):
    """Return a valid small file."""
    return _write(tmp_path / "tiny.gguf", *llama())


# ---- the table of types


def test_every_type_has_the_bytes_of_its_format():
    """Every type has the bytes of its format."""
    for name, block, size in GGML_TYPES.values():
        found = find_format(name)
        assert found.tensor_bytes((3, block * 2)) == 6 * size, name
        assert found.bits * block == size * 8, name


def test_refused_types_are_not_known():
    """Refused types are not known."""
    assert not REFUSED_TYPES.keys() & GGML_TYPES.keys()


def test_every_mapped_architecture_has_a_family():
    """Every mapped architecture has a family."""
    assert set(FAMILY.values()) <= registry().keys()


# ---- headers


@pytest.mark.parametrize("end", ["<", ">"])
@pytest.mark.parametrize("version", [2, 3])
def test_header_in_either_byte_order(tmp_path, end, version):
    """Header in either byte order."""
    metadata, tensors = llama()
    found = read_gguf_header(_write(tmp_path / "m.gguf", metadata, tensors, end=end, version=version))
    assert (found.version, found.little_endian) == (version, end == "<")
    assert len(found.tensors) == len(tensors)
    assert found.elements == 128 * 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64 + 128) + 64
    assert found.bytes == sum(nbytes(shape, kind) for _, shape, kind in tensors)
    assert found.metadata["llama.block_count"] == 2
    assert found.metadata["tokenizer.ggml.tokens"] == GgufArray("string", 2, None)
    assert found.metadata["tokenizer.ggml.add_bos_token"] is True
    assert found.bytes_by_format().keys() == {"q8_0", "fp32"}
    assert sum(found.elements_by_format().values()) == found.elements


def test_tensor_table_is_outermost_first(tiny):
    """Tensor table is outermost first."""
    found = {tensor.name: tensor for tensor in read_gguf_header(tiny).tensors}
    up = found["blk.0.ffn_up.weight"]
    assert (up.shape, up.format, up.bytes) == ((96, 64), "q8_0", 96 * 64 // 32 * 34)


def test_metadata_arrays(tmp_path):
    """Metadata arrays."""
    metadata, tensors = llama()
    metadata += [
        ("a.few", ARRAY, (I32, [1, -2])),
        ("a.many", ARRAY, (U32, list(range(5000)))),
        ("a.deep", ARRAY, (ARRAY, [(STRING, ["x"]), (U32, [1])])),
        ("a.big", U64, 2**63),
    ]
    found = read_gguf_header(_write(tmp_path / "m.gguf", metadata, tensors)).metadata
    assert found["a.few"] == GgufArray("i32", 2, (1, -2))
    assert found["a.many"] == GgufArray("u32", 5000, None)
    assert found["a.deep"] == GgufArray("array", 2, None)
    assert found["a.big"] == 2**63


def test_alignment_is_read(tmp_path):
    """Alignment is read."""
    metadata, tensors = llama()
    metadata.append(("general.alignment", U32, 64))
    assert read_gguf_header(_write(tmp_path / "m.gguf", metadata, tensors, alignment=64)).data_start % 64 == 0


# ---- split files


def _shards(folder, *, numbers=(0, 1), count=2, total=None, cut=5):
    metadata, tensors = llama()
    total = len(tensors) if total is None else total
    for at, part in enumerate((tensors[:cut], tensors[cut:])):
        own = metadata if at == 0 else metadata[:1]
        split = [("split.no", 2, numbers[at]), ("split.count", 2, count), ("split.tensors.count", I32, total)]
        _write(folder / f"m-{at + 1:05}-of-00002.gguf", [*own, *split], part)
    return folder / "m-00002-of-00002.gguf"


def test_any_shard_reads_them_all(tmp_path):
    """Any shard reads them all."""
    path = _shards(tmp_path)
    found = read_gguf_header(path)
    assert len(found.files) == 2
    assert {tensor.file for tensor in found.tensors} == {0, 1}
    assert read_gguf(path).parameters == found.elements


@pytest.mark.parametrize("how", [{"numbers": (0, 0)}, {"count": 3}, {"total": 7}])
def test_shards_that_do_not_belong_together(tmp_path, how):
    """Shards that do not belong together."""
    with pytest.raises(DocumentError):
        read_gguf_header(_shards(tmp_path, **how))


def test_missing_and_misnamed_shards(tmp_path):
    """Missing and misnamed shards."""
    path = _shards(tmp_path)
    loose = tmp_path / "loose.gguf"
    loose.write_bytes(path.read_bytes())
    with pytest.raises(DocumentError, match="its name does not say so"):
        read_gguf_header(loose)
    (tmp_path / "m-00001-of-00002.gguf").unlink()
    with pytest.raises(DocumentError, match="no such file"):
        read_gguf_header(path)


def test_same_tensor_in_two_shards(tmp_path):
    """Same tensor in two shards."""
    _shards(tmp_path)
    metadata, tensors = llama()
    split = [("split.no", 2, 1), ("split.count", 2, 2), ("split.tensors.count", I32, 10)]
    _write(tmp_path / "m-00002-of-00002.gguf", [*metadata[:1], *split], tensors[:5])
    with pytest.raises(DocumentError, match="listed twice"):
        read_gguf_header(tmp_path / "m-00001-of-00002.gguf")


# ---- damaged headers


def _patched(path, tensors, name, *, shape=None, kind=None):
    changed = [(n, shape or s, k if kind is None else kind) if n == name else (n, s, k) for n, s, k in tensors]
    return _write(path, llama()[0], changed)


def test_unknown_type_names_itself_and_the_nearest(tmp_path):
    """Unknown type names itself and the nearest."""
    data = bytearray(gguf(*llama()))
    name = b"blk.0.attn_q.weight"
    at = data.find(name) + len(name) + 4 + 16
    data[at : at + 4] = struct.pack("<I", 42)
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(UnknownNameError, match=r"ggml type '42 .*39 mxfp4"):
        read_gguf_header(path)
    data[at : at + 4] = struct.pack("<I", 31)
    path.write_bytes(data)
    with pytest.raises(DocumentError, match="removed from ggml"):
        read_gguf_header(path)


def test_rows_must_fill_blocks(tmp_path):
    """Rows must fill blocks."""
    SIZES[99] = (1, 1)
    with pytest.raises(DocumentError, match="not a multiple"):
        read_gguf_header(_patched(tmp_path / "m.gguf", llama()[1], "token_embd.weight", shape=(128, 48)))


def test_overlap_and_misalignment(tmp_path):
    """Overlap and misalignment."""
    good = gguf(*llama())
    for wrong, word in ((32, "overlaps"), (7, "not a multiple of 32"), (2**40, "after the file")):
        data = bytearray(good)
        name = b"output_norm.weight"
        at = data.find(name) + len(name) + 4 + 8 + 4
        data[at : at + 8] = struct.pack("<Q", wrong)
        path = tmp_path / "m.gguf"
        path.write_bytes(data)
        with pytest.raises(DocumentError, match=word):
            read_gguf_header(path)


def test_duplicates(tmp_path):
    """Duplicates."""
    metadata, tensors = llama()
    with pytest.raises(DocumentError, match="listed twice"):
        read_gguf_header(_write(tmp_path / "a.gguf", metadata, [*tensors, tensors[0]]))
    with pytest.raises(DocumentError, match="written twice"):
        read_gguf_header(_write(tmp_path / "b.gguf", [*metadata, metadata[0]], tensors))


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "4 bytes"),
        (b"GGML" + bytes(60), "not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "more than"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**40), "more than"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**63), "1 to 1024"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IQ", STRING, 2**62), "more than"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", ARRAY, 0, 2**23), "needs"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", ARRAY, STRING, 2**40), "in all"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", ARRAY, 77, 1), "unknown item"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<I", 77), "unknown metadata"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9,
            "deeper",
        ),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<IQIQ", 9, 1, 0, 0), "9 dimensions"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<IQIQ", 1, 0, 0, 0), "impossible shape"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<IQQIQ", 2, 2**62, 2**62, 0, 0),
            "impossible",
        ),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("general.alignment") + struct.pack("<II", 4, 3), "power of two"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"\xff" + bytes(20), "not UTF-8"),
    ],
)
def test_hostile_headers(tmp_path, data, word):
    """Hostile headers."""
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(DocumentError, match=word):
        read_gguf_header(path)


def test_missing_file_and_folder(tmp_path):
    """Missing file and folder."""
    for path in (tmp_path / "none.gguf", tmp_path, tmp_path / ("x" * 5000)):
        with pytest.raises(DocumentError):
            read_gguf_header(path)
    with pytest.raises(DocumentError):
        read_gguf_header("a\0b.gguf")
