"""Reading a temporary file past the page cache: removed in any case, and what cannot be done is said."""

from __future__ import annotations

import errno
import os
import shutil

import pytest

from bytebound.documents.measurement import Missing
from bytebound.measure import disk
from bytebound.measure.sampling import Probe


def test_a_file_is_read_and_removed(tmp_path):
    """The probe reads every byte; nothing is left behind."""
    with disk.disk_probe(tmp_path, wanted_bytes=40 * 2**20) as probe:
        assert isinstance(probe, Probe)
        assert probe.amount == 40 * 2**20
        assert probe.work() == probe.amount
        assert "O_DIRECT" in probe.how or "forget" in probe.how
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_file_goes_when_the_run_is_interrupted(tmp_path):
    with pytest.raises(KeyboardInterrupt), disk.disk_probe(tmp_path, wanted_bytes=32 * 2**20):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_where_direct_reads_are_refused(tmp_path, monkeypatch):
    """Tmpfs has no O_DIRECT: the page cache is told to forget instead, and ``how`` says so."""
    if not hasattr(os, "posix_fadvise"):
        pytest.skip("this system has no posix_fadvise")
    true_open = os.open

    def refuse(path, flags, *rest, **named):
        if flags & getattr(os, "O_DIRECT", 0):
            raise OSError(errno.EINVAL, "Invalid argument")
        return true_open(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", refuse)
    with disk.disk_probe(tmp_path, wanted_bytes=32 * 2**20) as probe:
        assert "told to forget" in probe.how
        assert probe.work() == 32 * 2**20


def test_a_full_disk(tmp_path, monkeypatch):
    """Too little free, or full while writing: one sentence, and nothing left behind."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10 * 2**20))
    with disk.disk_probe(tmp_path, wanted_bytes=2**30) as probe:
        assert isinstance(probe, Missing)
        assert probe.why.startswith("under 320 MiB are free")
    monkeypatch.undo()

    def full(handle, size, patience_s):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk, "_fill", full)
    with disk.disk_probe(tmp_path, wanted_bytes=2**26) as probe:
        assert probe == Missing(
            probe="disk.read", why=f"no file could be written in {tmp_path}: No space left on device"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path):
    with disk.disk_probe(tmp_path / "none", wanted_bytes=2**26) as probe:
        assert isinstance(probe, Missing)
        assert "No such file" in probe.why


def test_a_slow_disk_gets_a_smaller_file(tmp_path):
    """Writing stops when patience ends, but never below what can be measured."""
    with disk.disk_probe(tmp_path, wanted_bytes=2**28, patience_s=0.0) as probe:
        assert probe.amount == disk.LEAST_BYTES
