"""A database to keep results in: an SQLite file, and a database of a PostgreSQL server started for these tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from postgres import PASSWORD, new_database


def binaries() -> Path | None:
    """Return the folder of the newest PostgreSQL server, which Debian keeps off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@pytest.fixture(scope="session")
def server():
    """Start a private PostgreSQL on a socket in a folder of its own; yield that folder."""
    folder = binaries()
    if folder is None:
        pytest.skip("no PostgreSQL server is installed")
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    # The server refuses to run as root, and a socket's path must be short.
    owner = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    home = Path(tempfile.mkdtemp(prefix="pg"))
    if owner:
        try:
            shutil.chown(home, "postgres", "postgres")
        except LookupError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")

    def run(*words: str) -> None:
        subprocess.run(  # noqa: S603 - the server's own programs
            [folder / words[0], *words[1:]], check=True, cwd=home, stdout=subprocess.DEVNULL, timeout=60, **owner
        )

    secret, data = home / "password", home / "data"
    secret.write_text(PASSWORD, encoding="utf-8")
    secret.chmod(0o644)
    run(
        "initdb",
        "-D",
        str(data),
        "-U",
        "keeper",
        "-A",
        "scram-sha-256",
        f"--pwfile={secret}",
        "-E",
        "UTF8",
        "--no-sync",
    )
    options = f"-k {home} -c listen_addresses= -c fsync=off -c shared_buffers=16MB"
    run("pg_ctl", "-D", str(data), "-l", str(home / "log"), "-o", options, "-w", "start")
    yield home
    run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'kept.sqlite'}"
    return new_database(request.getfixturevalue("server"))
