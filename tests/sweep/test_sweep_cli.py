"""``bytebound sweep``: what it prints, and how it refuses."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("pyarrow", reason="a sweep writes Parquet")

from bytebound.cli import run


def asked(fleet_file, folder, *more):
    return ["sweep", str(fleet_file), "--out", str(folder), "--draws", "100", "--workers", "1", *more]


def test_text_json_and_summary_say_the_same(fleet_file, tmp_path, capsys):
    """The cheapest plan of every workload is in all three."""
    more = ["--plans", "fp8-kv", "more-devices:8", "--slip-months", "0", "3"]
    assert run(asked(fleet_file, tmp_path / "out", *more)) == 0
    text = capsys.readouterr().out
    assert run(asked(fleet_file, tmp_path / "out", *more, "--resume", "--json")) == 0
    found = json.loads(capsys.readouterr().out)

    assert found == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert found["schema"] == "bytebound.sweep-summary/1"
    assert len(found["cheapest"]) == 8
    assert "roadmap as planned" in text
    assert "roadmap 3 months late" in text
    for one in found["cheapest"]:
        assert one["workload"] in text
        assert one["plan"] is None or one["plan"] in text


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--plans", "fp8-weigth"], "unknown plan 'fp8-weigth'; nearest: fp8-weights"),
        (["--part-draws", "1"], "--part-draws is 1"),
        (["--on-ray", "here"], "'here' is no address"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_exit_2(fleet_file, tmp_path, capsys, more, said):
    if "--on-ray" in more:
        pytest.importorskip("ray", reason="the address is read once Ray is there")
    assert run([*asked(fleet_file, tmp_path / "out"), *more]) == 2
    captured = capsys.readouterr()

    assert said in captured.err
    assert captured.out == ""


def test_a_missing_fleet_is_said_before_a_folder_is_made(tmp_path, capsys):
    assert run(asked(tmp_path / "none.toml", tmp_path / "out")) == 2

    assert "no such file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
