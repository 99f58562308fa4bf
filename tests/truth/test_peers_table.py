"""The peers' answers are kept in a table that reads back, and the bake-off is computed from it."""

from __future__ import annotations

import csv
import importlib.util
import math
import re
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "validation"
INSTALLED = importlib.util.find_spec("aiconfigurator_core") is not None


@pytest.fixture
def peers(monkeypatch):
    """The script, imported as its user runs it: from its own folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("peers", "peer_adapters"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import peers as module

    return module


def test_the_table_reads_back(peers):
    """Every row is an answer or a reason, once per run and peer, and names no place of a machine."""
    answers = peers.read_answers()

    assert len({(answer.run, answer.peer) for answer in answers}) == len(answers) > 5000
    assert {answer.peer for answer in answers} == set(peers.PEERS)
    for answer in answers:
        assert bool(answer.reason) != (answer.ttft_s > 0 and answer.tpot_s > 0), answer
        assert answer.version
        assert not re.search(r"(^|\s)(/[\w.-]+){2,}", answer.reason)
    assert len(peers.answered("aiconfigurator")) > 2600


def test_another_layout_is_refused(peers, tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("run,peer\na,b\n", encoding="utf-8")

    with pytest.raises(ValueError, match="the columns are not"):
        peers.read_answers(path)


def test_asking_goes_on_where_it_stopped(peers, tmp_path, monkeypatch):
    """A run that has a row is not asked again; what a peer raises is kept short and without paths; scope leaves no row."""
    asked = []

    def ask(question):
        asked.append(question.run)
        if question.batch == 32:
            raise ValueError("no table at /some/where/of/mine {with details}")
        if question.tp > 1:
            raise peers.RefusalError("one device only")
        return 0.05, 0.005

    monkeypatch.setitem(peers.PEERS, "servcalc", type(peers.PEERS["servcalc"])("pytest", ask, "invented"))
    path = tmp_path / "peers.csv"

    assert peers.ask("servcalc", peers.anchors(), path) == (2, 4)
    assert len(asked) == 8
    assert peers.ask("servcalc", peers.anchors(), path) == (0, 0)
    assert len(asked) == 10  # the two out of scope leave no row
    reasons = {row["reason"] for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())}
    assert reasons == {"", "ValueError: no table at …"}


def test_scores_are_relative_errors_of_what_was_answered(peers):
    """10 % over and 30 % under of measured give a mean of 20 %; a deployment that does not fit is counted apart."""
    pairs = [
        peers.Pair("a", 1.0, 0.010, 1.0, 0.011, 0.1, 0.001),
        peers.Pair("b", 1.0, 0.010, 2.0, 0.007, 0.1, 0.008),
        peers.Pair("c", 1.0, 0.010, math.nan, math.nan),
    ]
    found = peers.scores(pairs)

    assert (found["runs"], found["no_answer"], found["tpot_under_floor"], found["ttft_under_floor"]) == (2, 1, 1, 0)
    assert found["tpot_mean"] == pytest.approx(20)
    assert found["ttft_mean"] == pytest.approx(50)
    assert peers.scores([]) == {"runs": 0}


@pytest.mark.packages
@pytest.mark.skipif(not INSTALLED, reason="needs the package aiconfigurator-core for its sample")
def test_the_best_peer_scores_as_published_elsewhere(peers):
    """AIConfigurator 0.12 on all runs it answers: 28 % mean and 17 % median of TPOT, 55 and 49 % of TTFT."""
    known = {run.id: run for run in peers.read_runs()}
    pairs = [
        peers.Pair(a.run, known[a.run].ttft_s, known[a.run].tpot_s, a.ttft_s, a.tpot_s)
        for a in peers.read_answers()
        if a.peer == "aiconfigurator" and not a.reason and a.run in known
    ]
    found = peers.scores(pairs)

    assert found["tpot_mean"] == pytest.approx(28.4, abs=1)
    assert found["tpot_median"] == pytest.approx(17.0, abs=0.5)
    assert found["ttft_mean"] == pytest.approx(55.0, abs=1)
    assert found["ttft_median"] == pytest.approx(48.7, abs=0.5)
