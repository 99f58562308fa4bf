"""Databases that are not ours, damaged, locked, away or secret; writers that meet or die."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sql
from made import made_run

from bytebound.errors import DocumentError, UnfinishedError
from bytebound.history import store
from bytebound.history.store import fetch, keep, open_history, records

WRITER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from made import made_run
from bytebound.history.store import keep, open_history
name, count, words, gate = sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5])
print("ready", flush=True)
while not gate.exists():
    time.sleep(0.001)
history = open_history(sys.argv[1])
for number in range(count):
    print(keep(history, made_run(f"{{name}}-{{number}}", words=words)).id, flush=True)
"""


def writer(url, name, *, count, words, gate):
    """Start a process that opens the history when ``gate`` appears, and saves ``count`` runs, printing each id."""
    code = WRITER.format(tests=str(Path(__file__).parent))
    words_given = [sys.executable, "-c", code, url, name, str(count), str(words), str(gate)]
    process = subprocess.Popen(words_given, stdout=subprocess.PIPE, text=True)  # noqa: S603
    assert process.stdout.readline() == "ready\n"
    return process


def test_processes_that_open_and_write_at_once_lose_nothing(url, tmp_path):
    gate = tmp_path / "gate"
    writers = [writer(url, name, count=15, words=10, gate=gate) for name in "abc"]
    gate.touch()
    said = [process.communicate(timeout=60)[0].split() for process in writers]

    assert [process.returncode for process in writers] == [0, 0, 0]
    history = open_history(url)
    assert {record.id for record in records(history)} == {name for names in said for name in names}
    assert len(records(history)) == 45


def test_a_killed_writer_leaves_every_saved_record_and_no_half_one(url, tmp_path):
    gate = tmp_path / "gate"
    gate.touch()
    for name, wait in (("a", 0.0), ("b", 0.004), ("c", 0.02)):
        process = writer(url, name, count=100_000, words=100_000, gate=gate)  # 500 kB each: killed inside a save
        said = [process.stdout.readline().strip() for _ in range(3)]
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        said += process.communicate(timeout=60)[0].split("\n")[:-1]  # a last line without its end was not said

        history = open_history(url)
        kept = {record.id for record in records(history)}
        assert set(said) <= kept
        assert len({one for one in kept if one.startswith(name)}) <= len(said) + 1
        for one in kept:
            assert fetch(history, one) == made_run(one, words=100_000)
        keep(history, made_run(f"after-{name}", words=100_000))
        with history.engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"


def test_a_writer_waits_for_another_and_says_so_when_it_waited_too_long(tmp_path, monkeypatch):
    path = tmp_path / "kept.sqlite"
    open_history(str(path))
    monkeypatch.setattr(store, "WAIT_S", 0.05)
    history = open_history(str(path))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")

    with pytest.raises(UnfinishedError, match="cannot save to the history: database is locked; try again later"):
        keep(history, made_run())
    other.execute("ROLLBACK")
    other.close()
    assert keep(history, made_run()).id == "r-1"


def broken_files(folder):
    """Yield names, files that are no history of ours, and what is said of them."""
    text = folder / "text.sqlite"
    text.write_text("not a database, " * 1000)
    yield text, "cannot open the history: file is not a database"
    whole = folder / "whole.sqlite"
    keep(open_history(str(whole)), made_run(words=5000))
    cut = folder / "cut.sqlite"
    cut.write_bytes(whole.read_bytes()[:6000])
    yield cut, "cannot open the history: database disk image is malformed"
    foreign = folder / "foreign.sqlite"
    made = sqlite3.connect(foreign)
    made.execute("CREATE TABLE bookmarks (title TEXT)")
    made.close()
    yield foreign, "another program's database; name another file with --db"
    for name, change in (
        ("newer", "UPDATE bytebound_schema SET version = 99"),
        ("empty", "DELETE FROM bytebound_schema"),
        ("two", "INSERT INTO bytebound_schema VALUES (2)"),
        ("zero", "UPDATE bytebound_schema SET version = 0"),
        ("words", "DROP TABLE bytebound_schema"),
        ("bare", "DROP TABLE bytebound_records"),
    ):
        path = folder / f"{name}.sqlite"
        path.write_bytes(whole.read_bytes())
        made = sqlite3.connect(path)
        made.execute(change)
        made.commit()
        made.close()
        said = {"newer": "a history of version 99", "words": "another program's database"}.get(
            name, "a damaged history"
        )
        yield path, said


def test_files_that_are_no_history_are_named_and_left_alone(tmp_path):
    for path, said in broken_files(tmp_path):
        before = path.read_bytes()
        with pytest.raises(DocumentError) as caught:
            open_history(str(path))
        assert said in str(caught.value), path
        assert caught.value.place == str(path)
        assert path.read_bytes() == before


def test_a_page_damaged_later_is_said_when_it_is_read(tmp_path):
    path = tmp_path / "kept.sqlite"
    history = open_history(str(path))
    for number in range(20):
        keep(history, made_run(f"r-{number}", words=2000))
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : 2 * len(data) // 3] = b"\xff" * (len(data) // 3)
    path.write_bytes(data)

    for number in range(20):
        try:
            fetch(open_history(str(path)), f"r-{number}")
        except DocumentError:
            break
    else:
        pytest.fail("no damage was seen")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite://", "a database in memory keeps nothing; name a file or a server"),
        (":memory:", "a database in memory keeps nothing"),
        ("/no/such/folder/kept.sqlite", "no such folder; make /no/such/folder first"),
        ("nosuch://host/db", "cannot use this database"),
        ("mysql+nosuch://host/db", "cannot use this database"),
        ("postgresql+asyncpg_nosuch://host/db", "cannot use this database"),
        ("oracle://user:geheim@host/db", "is not installed"),
        ("http//x://y", "not a database URL"),
        ("postgresql://keeper:geheim@[::1/db", "not a database URL"),
        ("postgresql://keeper:geheim@127.0.0.1:port/db", "not a database URL"),
        ("postgresql://keeper:geheim@127.0.0.1:1/db", "cannot open the history: "),
        ("postgres://127.0.0.1:1/db?password=geheim&sslpassword=geheim", "cannot open the history: "),
        ("postgresql://keeper:geheim@/db?host=/geheim/nowhere", "cannot open the history: "),
    ],
)
def test_a_database_that_cannot_be_used_is_said_without_its_password(url, said):
    with pytest.raises(DocumentError) as caught:
        open_history(url)

    assert said in str(caught.value)
    assert "geheim" not in str(caught.value).replace("/geheim/nowhere", "")
    assert caught.value.exit_code == 2


def test_a_wrong_password_is_said_and_none_is_shown(server):
    from postgres import PASSWORD, new_database

    url = new_database(server)
    history = open_history(url)
    assert PASSWORD not in repr(history)
    assert "sesam" not in repr(history)
    assert history.place.startswith("postgresql:///t")

    with pytest.raises(DocumentError) as caught:
        open_history(url.replace("sesam", "geheim"))
    assert "password authentication failed" in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_other_tables_of_a_server_are_no_matter_but_half_a_history_is(server):
    from postgres import new_database

    url = new_database(server)
    engine = sql.create_engine(sql.make_url(url).set(drivername="postgresql+psycopg"), poolclass=sql.pool.NullPool)
    with engine.begin() as connection:
        connection.execute(sql.text("CREATE TABLE bookmarks (title TEXT)"))
    keep(open_history(url), made_run())
    with engine.begin() as connection:
        connection.execute(sql.text("DROP TABLE bytebound_schema"))

    with pytest.raises(DocumentError, match="another program's database"):
        open_history(url)


def test_without_sqlalchemy_the_extra_is_named():
    code = "import sys; sys.modules['sqlalchemy'] = None\nimport bytebound.history.store"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603

    assert 'the history needs SQLAlchemy; pip install "bytebound[measure]"' in done.stderr
