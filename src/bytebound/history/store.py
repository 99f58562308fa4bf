"""Results kept over time: one table of documents, in one SQLite file or any other SQLAlchemy database.

A save is one INSERT statement, so a process killed meanwhile leaves the whole record or nothing. SQLite keeps its
rollback journal rather than a write-ahead log: saves are rare, the history stays one file, and a file that cannot be
written can still be listed. Writers wait for each other.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bytebound.documents.record import Record
from bytebound.errors import DocumentError, RequestError, UnfinishedError, UnknownNameError
from bytebound.history.describe import describe, host_of, read, seconds_of
from bytebound.history.place import database_url

try:
    import sqlalchemy as sql
except ImportError:
    raise RequestError("the history needs SQLAlchemy", mend='pip install "bytebound[measure]"') from None

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bytebound.documents.device import Device

WAIT_S = 30  # how long a writer waits for another, and for a server to answer
LOCK = 0x62797465  # any number of our own: PostgreSQL processes that make the tables take turns on it
SECONDS_PER_DAY = 86400.0

TABLES = sql.MetaData()
SCHEMA = sql.Table(
    "bytebound_schema", TABLES, sql.Column("version", sql.Integer, primary_key=True, autoincrement=False)
)
RECORDS = sql.Table(
    "bytebound_records",
    TABLES,
    sql.Column("number", sql.Integer, primary_key=True),  # the order of saving
    sql.Column("id", sql.String(100), nullable=False, unique=True),
    sql.Column("kind", sql.String(20), nullable=False),
    sql.Column("at_s", sql.Float(53), nullable=False),  # seconds since 1970
    sql.Column("when", sql.String(40), nullable=False),  # the same moment as the document writes it
    sql.Column("machine", sql.String(200), nullable=False),
    sql.Column("host", sql.String(200), nullable=False),
    sql.Column("title", sql.String(200), nullable=False),
    sql.Column("schema", sql.String(60), nullable=False),
    sql.Column("document", sql.Text, nullable=False),
    sql.Index("bytebound_records_newest", "kind", "machine", "at_s"),
)
UPGRADES: tuple[Callable[[sql.Connection], None], ...] = ()
"""Step ``i`` brings tables of version ``i + 1`` to ``i + 2``; new tables are made in the newest shape at once."""

HEAD = [RECORDS.c[name] for name in Record.__dataclass_fields__]
NEWEST = (RECORDS.c.at_s.desc(), RECORDS.c.number.desc())


@dataclass(frozen=True, slots=True)
class History:
    """An open history: the database, and its place as it may be printed (never a user or password)."""

    engine: sql.Engine = field(repr=False)
    place: str


def open_history(url: str | None = None) -> History:
    """Return the history at ``url``, with its tables made or brought up to date.

    Args:
        url: an SQLAlchemy URL, or the path of an SQLite file. None: ``BYTEBOUND_DB``, or ``history.sqlite`` in the data
            folder, which is made if it is missing.

    Raises:
        DocumentError: no such database, no driver for it, not ours, damaged, or made by a newer version.
        UnfinishedError: another process holds it for too long.
    """
    if url is None:
        url, default = database_url()
        if default:
            _make_folder(Path(url).parent)
    history = _connect(url)
    with _spoken(history, "cannot open the history"):
        _prepare(history)
    return history


def keep(history: History, document: Any) -> Record:
    """Save a measured device, a run, an observation or a calibration, and return its record.

    Saving the same document again changes nothing.

    Raises:
        DocumentError: not such a document, or another one is kept under its id.
        UnfinishedError: the database cannot be written.
    """
    record, text = describe(document)
    row = {**{name: getattr(record, name) for name in Record.__dataclass_fields__}, "document": text}
    with _spoken(history, "cannot save to the history", UnfinishedError):
        try:
            with history.engine.begin() as connection:
                connection.execute(sql.insert(RECORDS).values(**row, at_s=seconds_of(record.when)))
        except sql.exc.IntegrityError:
            with history.engine.connect() as connection:
                held = connection.scalar(sql.select(RECORDS.c.document).where(RECORDS.c.id == record.id))
            if held is None:
                raise
            if held != text:
                raise DocumentError(
                    f"another {record.kind} is kept as {record.id}",
                    place=history.place,
                    mend="give it an id of its own",
                ) from None
    return record


def records(
    history: History, *, kind: str | None = None, machine: str | None = None, limit: int | None = None
) -> tuple[Record, ...]:
    """Return what is kept, newest first; all of it, or of one kind, of one machine, the ``limit`` newest.

    Raises:
        DocumentError: the database cannot be read.
    """
    return tuple(Record(**row) for row in _select(history, HEAD, kind=kind, machine=machine, limit=limit))


def find(history: History, name: str, *, kind: str | None = None) -> Record:
    """Return the record with the id ``name``, or the only one whose id begins or ends so.

    ``latest`` is the newest (of ``kind``), ``previous`` the one before it of the same kind, machine and host.

    Raises:
        UnknownNameError: no such record, or several; carries the nearest ids.
    """
    known = records(history, kind=kind)
    if name in {"latest", "previous"} and known:
        first = known[0]
        of_one = [r for r in known if (r.kind, r.machine, r.host) == (first.kind, first.machine, first.host)]
        if name == "latest" or len(of_one) > 1:
            return of_one[name == "previous"]
    what = kind or "record"
    found = [record for record in known if record.id == name] or [
        r for r in known if name and name in (r.id[: len(name)], r.id[-len(name) :])
    ]
    if len(found) > 1:
        raise UnknownNameError(
            f"{what}: {len(found)} ids begin or end with", name, [record.id for record in found], place=history.place,
            mend="write more of the id",
        )  # fmt: skip
    if not found:
        mend = "`bytebound measure --list` lists every id" if known else f"no {what} is kept here yet"
        raise UnknownNameError(what, name, [record.id for record in known], place=history.place, mend=mend)
    return found[0]


def fetch(history: History, name: str, *, kind: str | None = None) -> Any:
    """Return the document that ``find`` names: a Device, Run, Observation or Calibration, exactly as it was saved.

    Raises:
        UnknownNameError: no such record, or several; carries the nearest ids.
        DocumentError: a record this version cannot read.
    """
    record = find(history, name, kind=kind)
    for row in _select(history, [RECORDS.c.document], RECORDS.c.id == record.id):
        return read(record.schema, row["document"], place=f"{history.place}: {record.id}")
    raise DocumentError(f"{record.id} is gone", place=history.place, mend="another process removed it")


def earlier(history: History, device: Device, *, days: float = 400) -> tuple[Device, ...]:
    """Return measurements of the same machine id on the same host, up to ``days`` before ``device``, newest first."""
    if device.measured is None:
        return ()
    now = seconds_of(device.measured.when)
    rows = _select(
        history, [RECORDS.c.id, RECORDS.c.schema, RECORDS.c.document], RECORDS.c.host == host_of(device),
        RECORDS.c.id != device.measured.id, RECORDS.c.at_s.between(now - days * SECONDS_PER_DAY, now),
        kind="measurement", machine=device.id,
    )  # fmt: skip
    return tuple(read(row["schema"], row["document"], place=f"{history.place}: {row['id']}") for row in rows)


def _select(
    history: History,
    columns: list[sql.Column[Any]],
    *where: sql.ColumnElement[bool],
    kind: str | None = None,
    machine: str | None = None,
    limit: int | None = None,
) -> list[sql.RowMapping]:
    query = sql.select(*columns).where(*where).order_by(*NEWEST)
    query = query if kind is None else query.where(RECORDS.c.kind == kind)
    query = query if machine is None else query.where(RECORDS.c.machine == machine)
    with _spoken(history, "cannot read the history"), history.engine.connect() as connection:
        return list(connection.execute(query.limit(limit)).mappings())


def _connect(text: str) -> History:
    url = _parse(text)
    file = url.get_backend_name() == "sqlite"
    if file and url.database in {None, "", ":memory:"}:
        raise DocumentError("a database in memory keeps nothing", place=text, mend="name a file or a server")
    place = str(url.database) if file else f"{url.get_backend_name()}://{url.host or ''}/{url.database or ''}"
    if file and not url.query and not Path(place).absolute().parent.is_dir():
        raise DocumentError("no such folder", place=place, mend=f"make {Path(place).parent} first")
    wait = {"timeout": WAIT_S, "isolation_level": None} if file else {}
    if url.get_backend_name() == "postgresql":
        wait = {"connect_timeout": WAIT_S}
    try:
        # No pool: a history is used a few times in a run, and nothing is left open afterwards.
        engine = sql.create_engine(url, connect_args=wait, poolclass=sql.pool.NullPool, hide_parameters=True)
    except sql.exc.ArgumentError as error:
        raise DocumentError(
            f"cannot use this database: {error}", place=place, mend="give sqlite or postgresql"
        ) from None
    except ImportError as error:
        raise DocumentError(
            f"the driver {error.name} is not installed", place=place, mend=f"pip install {error.name}"
        ) from None
    return History(engine, place)


def _parse(text: str) -> sql.URL:
    if "://" not in text:
        return sql.URL.create("sqlite", database=str(Path(text).expanduser()))
    try:
        url = sql.make_url(text)
    except (sql.exc.ArgumentError, ValueError):
        raise DocumentError(  # the text is not printed: it may hold a password
            "not a database URL", place="--db or BYTEBOUND_DB", mend="write it as postgresql://user@host/name"
        ) from None
    # SQLAlchemy 2.0 takes the bare name for psycopg2; psycopg is its successor and what we test.
    return url.set(drivername="postgresql+psycopg") if url.drivername in {"postgresql", "postgres"} else url


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DocumentError(
            f"cannot make the data folder: {error.strerror}", place=str(folder), mend="name another with BYTEBOUND_DATA"
        ) from None


def _prepare(history: History) -> None:
    newest = 1 + len(UPGRADES)
    with history.engine.connect() as connection:
        if _version(connection, newest, history.place) == newest:
            return  # nothing is written: a file that cannot be written can still be listed
    with history.engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        elif connection.dialect.name == "postgresql":
            connection.execute(sql.select(sql.func.pg_advisory_xact_lock(LOCK)))
        version = _version(connection, newest, history.place)  # another process may have been first
        if version == 0:
            TABLES.create_all(connection)
            connection.execute(sql.insert(SCHEMA).values(version=newest))
            return
        for upgrade in UPGRADES[version - 1 :]:
            upgrade(connection)
        connection.execute(sql.update(SCHEMA).values(version=newest))


def _version(connection: sql.Connection, newest: int, place: str) -> int:
    """Return the version of the tables, 0 where there are none yet."""
    names = set(sql.inspect(connection).get_table_names())
    if SCHEMA.name not in names:
        # A server's database may hold other people's tables; a file of other tables is another program's.
        if RECORDS.name in names or (names and connection.dialect.name == "sqlite"):
            raise DocumentError("another program's database", place=place, mend="name another file with --db")
        return 0
    versions = list(connection.scalars(sql.select(SCHEMA.c.version)))
    if len(versions) != 1 or not isinstance(versions[0], int) or versions[0] < 1 or RECORDS.name not in names:
        raise DocumentError("a damaged history", place=place, mend="restore it from a copy, or name another with --db")
    if versions[0] > newest:
        raise DocumentError(
            f"a history of version {versions[0]}, and this bytebound reads up to {newest}",
            place=place, mend="upgrade bytebound, or name another with --db",
        )  # fmt: skip
    return versions[0]


@contextmanager
def _spoken(history: History, what: str, kind: type[DocumentError | UnfinishedError] = DocumentError) -> Iterator[None]:
    """Say a database error as one sentence, without statements, parameters or passwords."""
    try:
        yield
    except sql.exc.SQLAlchemyError as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split("\n")[0].split())
        for secret in _secrets(history.engine.url):
            reason = reason.replace(secret, "***")
        if "locked" in reason:
            raise UnfinishedError(f"{what}: {reason}", place=history.place, mend="try again later") from None
        raise kind(f"{what}: {reason}", place=history.place, mend="name another database with --db") from None


def _secrets(url: sql.URL) -> list[str]:
    named = [str(value) for key, value in url.query.items() if "pass" in key.lower()]
    return [secret for secret in (str(url.password or ""), *named) if secret]
