"""What is kept comes back exactly, is found by its id, and is never overwritten."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import numpy as np
import pytest
import sqlalchemy as sql
from hypothesis import given, settings
from hypothesis import strategies as st
from made import TODAY, made_calibration, made_device, made_observation, made_run

from bytebound.documents.observation import PhaseRun, Run, Spread
from bytebound.errors import DocumentError, UnfinishedError, UnknownNameError
from bytebound.history import store
from bytebound.history.store import earlier, fetch, find, keep, open_history, records

RNG = np.random.default_rng(5)


def test_every_kind_of_document_comes_back_exactly(url):
    history = open_history(url)
    for document in (made_device(RNG), made_run(), made_observation(), made_calibration()):
        record = keep(history, document)
        assert fetch(open_history(url), record.id) == document

    assert [(r.id, r.kind) for r in records(history)] == [
        ("c-1", "calibration"), ("o-1", "observation"), ("r-1", "run"), ("m-20261121t120000", "measurement"),
    ]  # fmt: skip
    assert [(r.machine, r.title) for r in records(history)][:2] == [
        ("here", "llama.cpp b6000: q8_0, f16"), ("here", "SmolLM2-135M llama.cpp b6000"),
    ]  # fmt: skip
    device = records(history, kind="measurement")[0]
    assert (device.machine, device.host) == ("here", "AMD EPYC 9B14, 2 cores")
    assert (device.title, device.schema) == ("AMD EPYC 9B14: 24.0 GB/s, full", "bytebound.machine/1")
    assert device.when == TODAY.isoformat(timespec="seconds")


texts = st.text(max_size=20)
numbers = st.floats(allow_nan=False, allow_infinity=False)
spreads = st.builds(Spread, numbers, numbers, numbers, numbers, st.integers(0, 2**40))
phases = st.builds(PhaseRun, texts, spreads, numbers, numbers, numbers)
runs = st.builds(
    Run,
    id=st.just("r-0"),
    when=st.datetimes().map(lambda moment: f"{moment.isoformat()}+02:00"),
    engine=texts,
    engine_version=texts,
    model=texts,
    settings=st.dictionaries(texts, numbers | texts, max_size=3),
    phases=st.lists(phases, max_size=3).map(tuple),
    metrics=st.dictionaries(texts, numbers, max_size=3),
    canaries=st.dictionaries(texts, spreads, max_size=2),
    notes=st.lists(texts, max_size=3).map(tuple),
    seconds=numbers,
)


@pytest.fixture(scope="session")
def many(tmp_path_factory):
    """An SQLite history that a whole property test writes to."""
    return open_history(str(tmp_path_factory.mktemp("many") / "kept.sqlite"))


@given(run=runs)
def test_any_run_comes_back_exactly(many, run):
    run = replace(run, id=str(uuid4()))
    keep(many, run)

    assert repr(fetch(many, run.id)) == repr(run)


@pytest.fixture(scope="session")
def served(server):
    """The same on PostgreSQL, which refuses NUL in text."""
    from postgres import new_database

    return open_history(new_database(server))


@given(run=runs)
@settings(max_examples=25)
def test_any_run_comes_back_exactly_from_postgresql(served, run):
    run = replace(run, id=str(uuid4()))
    keep(served, run)

    assert repr(fetch(served, run.id)) == repr(run)


def test_names(url):
    history = open_history(url)
    for name in ("m-2026a", "m-2026b", "m-2026", "M-%X", "m_9"):
        keep(history, made_run(name))

    assert fetch(history, "m-2026").id == "m-2026"  # exact before prefix
    assert fetch(history, "m-2026b").id == "m-2026b"
    assert fetch(history, "M").id == "M-%X"  # case counts, wildcards do not
    assert fetch(history, "m_").id == "m_9"
    assert fetch(history, "6b").id == "m-2026b"  # the end, where ids begin with the machine's name
    for given_name, text in (
        ("m-", "unknown record: 3 ids begin or end with 'm-'; nearest: m-2026, m-2026a, m-2026b; write more of the id"),
        ("m-2027", "unknown record 'm-2027'; nearest: m-2026"),
        ("%", "unknown record '%'; nearest: M-%X"),
        ("", "unknown record ''"),
    ):
        with pytest.raises(UnknownNameError) as caught:
            fetch(history, given_name)
        assert text in str(caught.value)
    with pytest.raises(UnknownNameError, match="no measurement is kept here yet"):
        fetch(history, "latest", kind="measurement")


def test_latest_is_by_the_documents_own_time_and_previous_is_of_the_same_machine(url):
    history = open_history(url)
    for days, cpu, name in ((3, "A", "third"), (1, "A", "first"), (2, "B", "other"), (9, "A", "oldest")):
        keep(history, made_device(RNG, days=days, cpu=cpu, name=name))
    keep(history, made_run(when="2031-01-01T00:00:00Z"))

    assert [r.id for r in records(history, kind="measurement")] == ["first", "other", "third", "oldest"]
    assert [r.id for r in records(history, limit=2)] == ["r-1", "first"]
    assert records(history, machine="elsewhere") == ()
    assert find(history, "latest").id == "r-1"
    assert find(history, "latest", kind="measurement").id == "first"
    assert find(history, "previous", kind="measurement").id == "third"
    with pytest.raises(UnknownNameError, match="unknown record 'previous'"):
        find(history, "previous")


def test_times_in_other_zones_are_ordered_as_moments(url):
    history = open_history(url)
    keep(history, made_run("noon", when="2026-11-21T12:00:00+00:00"))
    keep(history, made_run("before", when="2026-11-21T12:30:00+02:00"))
    keep(history, made_run("after", when="2026-11-21T12:01:00"))

    assert [r.id for r in records(history)] == ["after", "noon", "before"]


def test_earlier_measurements_of_the_same_machine(url):
    history = open_history(url)
    new = made_device(RNG, name="new")
    for days, cpu, name in ((0, "AMD EPYC 9B14", "new"), (30, "AMD EPYC 9B14", "a"), (31, "other", "b"), (500, "AMD EPYC 9B14", "c"), (-3, "AMD EPYC 9B14", "later")):  # fmt: skip
        keep(history, new if name == "new" else made_device(RNG, days=days, cpu=cpu, name=name))

    assert [device.measured.id for device in earlier(history, new)] == ["a"]
    assert [device.measured.id for device in earlier(history, new, days=600)] == ["a", "c"]
    assert earlier(history, new.model_copy(update={"measured": None})) == ()


def test_saving_twice_is_once_and_never_overwrites(url):
    history = open_history(url)
    run = made_run()
    assert keep(history, run) == keep(history, run)

    with pytest.raises(DocumentError, match="another run is kept as r-1; give it an id of its own"):
        keep(history, replace(run, model="another"))
    assert fetch(history, "r-1") == run
    assert len(records(history)) == 1


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (Spread(1, 1, 1, 1, 1), "a Spread is not kept in the history; kept are measurement, run, observation"),
        (made_device(RNG).model_copy(update={"measured": None}), "here was never measured; only measured machines are kept"),
        (made_run(""), "'' cannot be the id of a record"),
        (made_run("two words"), "cannot be the id"),
        (made_run("latest"), "'latest' cannot be the id"),
        (made_run("x" * 101), "cannot be the id"),
        (made_run("nul\0"), "cannot be the id"),
        (made_run(when="yesterday"), "r-1: 'yesterday' is not a time; write 2026-11-21T12:00:00+00:00"),
        (replace(made_run(), seconds=float("nan")), "r-1: seconds: Input should be a valid number"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept(tmp_path, document, text):
    history = open_history(str(tmp_path / "kept.sqlite"))

    with pytest.raises(DocumentError) as caught:
        keep(history, document)

    assert text in str(caught.value)
    assert records(history) == ()


def test_titles_and_names_hold_nothing_a_terminal_or_database_obeys(url):
    history = open_history(url)
    keep(history, replace(made_observation("o-2"), machine="a\0b\x1b[31m\n", model="x\0\x1by" * 200))

    record = records(history)[0]
    assert record.machine == "ab[31m"
    assert record.title.isprintable()
    assert len(record.title) == 200


def test_a_record_this_version_cannot_read_is_said_and_the_others_are_read(url):
    history = open_history(url)
    keep(history, made_run())
    row = {"kind": "run", "at_s": 0.0, "when": "x", "machine": "", "host": "", "title": "x"}
    with history.engine.begin() as connection:
        for name, schema, text in (
            ("newer", "bytebound.proof/7", "{}"),
            ("cut", "bytebound.run/1", '{"schema"'),
            ("wrong", "bytebound.run/1", '{"schema": "bytebound.run/1", "id": 5}'),
        ):
            connection.execute(sql.insert(store.RECORDS).values(**row, id=name, schema=schema, document=text))

    for name, text in (
        ("newer", "newer: bytebound.proof/7 is a format this version cannot read; upgrade bytebound"),
        ("cut", "cut: not JSON"),
        ("wrong", "wrong: id: Input should be a valid string"),
    ):
        with pytest.raises(DocumentError) as caught:
            fetch(history, name)
        assert text in str(caught.value)
    assert len(records(history)) == 4
    assert fetch(history, "latest") == made_run()


def test_the_default_place(tmp_path, monkeypatch):
    monkeypatch.setenv("BYTEBOUND_DATA", str(tmp_path / "data" / "deep"))
    monkeypatch.delenv("BYTEBOUND_DB", raising=False)
    assert open_history().place == str(tmp_path / "data" / "deep" / "history.sqlite")

    monkeypatch.setenv("BYTEBOUND_DB", str(tmp_path / "other.sqlite"))
    assert open_history().place == str(tmp_path / "other.sqlite")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "other.sqlite"]

    monkeypatch.delenv("BYTEBOUND_DB")
    monkeypatch.setenv("BYTEBOUND_DATA", str(tmp_path / "other.sqlite"))
    with pytest.raises(DocumentError, match="cannot make the data folder: File exists"):
        open_history()


def test_an_older_history_is_brought_up_to_date(url, monkeypatch):
    keep(open_history(url), made_run())

    def broken(connection):
        connection.execute(sql.text("ALTER TABLE bytebound_records ADD COLUMN half INTEGER"))
        connection.execute(sql.text("SELECT nothing FROM nowhere"))

    def added(connection):
        connection.execute(sql.text("ALTER TABLE bytebound_records ADD COLUMN mood INTEGER"))

    def columns(history):
        return {column["name"] for column in sql.inspect(history.engine).get_columns("bytebound_records")}

    monkeypatch.setattr(store, "UPGRADES", (added, broken))
    with pytest.raises(DocumentError, match="cannot open the history"):
        open_history(url)

    monkeypatch.setattr(store, "UPGRADES", (added,))
    history = open_history(url)
    assert fetch(open_history(url), "r-1") == made_run()
    assert columns(history) >= {"mood"}
    assert "half" not in columns(history)  # the step that failed left nothing

    monkeypatch.setattr(store, "UPGRADES", ())
    with pytest.raises(
        DocumentError, match="a history of version 2, and this bytebound reads up to 1; upgrade bytebound"
    ):
        open_history(url)


def test_a_history_that_cannot_be_written_can_be_listed(tmp_path):
    path = tmp_path / "kept.sqlite"
    keep(open_history(str(path)), made_run())

    history = open_history(f"sqlite:///file:{path}?mode=ro&uri=true")
    assert fetch(history, "r-1") == made_run()
    with pytest.raises(UnfinishedError, match="cannot save to the history: attempt to write a readonly database"):
        keep(history, made_run("r-2"))
