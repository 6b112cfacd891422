"""A PostgreSQL server for the tests alone: in a folder of its own, on a socket, gone afterwards; most need no syncs."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg

SYNCED = ("listen_addresses=", "max_connections=120")
"""A server that keeps what it says it keeps."""
SETTINGS = (*SYNCED, "fsync=off", "full_page_writes=off")


def programs() -> Path | None:
    """Where Debian keeps the newest server's programs, which are not in PATH; None without one."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@contextmanager
def server(settings: Sequence[str] = SETTINGS) -> Iterator[Callable[[], str]]:
    """Start it; what is given out makes a new, empty database at each call and returns its URL."""
    bin_folder = programs()
    assert bin_folder is not None
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    data = folder / "data"
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres")

    run = partial(_run, folder)
    options = " ".join(f"-c {setting}" for setting in (*settings, f"unix_socket_directories={folder}"))
    run("initdb", "-D", str(data), "-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8")
    run("pg_ctl", "-D", str(data), "-l", str(folder / "log"), "-o", options, "-w", "start")
    numbers = itertools.count()

    def new_database() -> str:
        name = f"spool{next(numbers)}"
        with psycopg.connect(host=str(folder), user="postgres", dbname="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return f"postgresql://postgres@/{name}?host={folder}"

    try:
        yield new_database
    finally:
        with suppress(subprocess.CalledProcessError):  # a test has ended it
            run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


def _run(folder: Path, program: str, *arguments: str) -> None:
    """Run one of the server's programs, as the account that may."""
    bin_folder = programs()
    assert bin_folder is not None
    before = ("runuser", "-u", "postgres", "--") if os.geteuid() == 0 else ()
    command = [*before, str(bin_folder / program), *arguments]
    subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120)


def change(database: str, **settings: str) -> None:
    """Change settings of a running server; none may need a restart."""
    with psycopg.connect(database, autocommit=True) as connection:
        for name, value in settings.items():
            connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        connection.execute("SELECT pg_reload_conf()")


def stranger(database: str, role: str, password: str) -> str:
    """Make a role that may log in with a password and owns nothing. Returns the URL for it, with that password."""
    hba = _data(database) / "pg_hba.conf"
    hba.write_text(f"local all {role} scram-sha-256\n" + hba.read_text())
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'")
        connection.execute("SELECT pg_reload_conf()")
    return database.replace("postgres@", f"{role}:{password}@")


@dataclass(frozen=True)
class Standby:
    """A second server that follows a first one by streaming replication."""

    folder: Path
    both: str
    """The URL of the database on whichever of the two takes changes."""

    def promote(self) -> None:
        """It takes changes from now on."""
        _run(self.folder, "pg_ctl", "-D", str(self.folder / "data"), "-w", "promote")


@contextmanager
def standby(database: str, *, synchronous: bool) -> Iterator[Standby]:
    """Make a standby of the server of a database. With `synchronous` its commits wait for the standby."""
    primary = _data(database).parent
    folder = Path(tempfile.mkdtemp(prefix="standby-"))
    data, host = folder / "data", f"host={primary}"
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    run = partial(_run, folder)
    run("pg_basebackup", "-D", str(data), "-d", f"{host} user=postgres", "-R", "-X", "stream", "-c", "fast")
    options = " ".join(f"-c {setting}" for setting in (*SETTINGS, f"unix_socket_directories={folder}"))
    run("pg_ctl", "-D", str(data), "-l", str(folder / "log"), "-o", options, "-w", "start")
    try:
        if synchronous:
            change(database, synchronous_standby_names="*")
            with psycopg.connect(database, autocommit=True) as connection:
                query = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
                until = time.monotonic() + 60
                while connection.execute(query).fetchone() == (0,) and time.monotonic() < until:
                    time.sleep(0.05)
        yield Standby(folder, database.replace(host, f"{host},{folder}"))
    finally:
        run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


def end(database: str) -> None:
    """The server ends at once, as if its machine had lost its power."""
    folder = _data(database)
    _run(folder.parent, "pg_ctl", "-D", str(folder), "-m", "immediate", "-w", "stop")


def restart(database: str, pause: float = 0.0) -> None:
    """The server ends at once, as if killed, and is there again after so many seconds."""
    folder, bin_folder = _data(database), programs()
    before = ("runuser", "-u", "postgres", "--") if os.geteuid() == 0 else ()
    options = (folder / "postmaster.opts").read_text().split('"-c" ')[1:]
    settings = " ".join("-c " + option.strip().strip('"') for option in options)
    control = [*before, str(bin_folder / "pg_ctl") if bin_folder else "", "-D", str(folder), "-w"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder.parent, "timeout": 60}
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, **quiet)  # type: ignore[call-overload]
    time.sleep(pause)
    log = ["-l", str(folder.parent / "log"), "-o", settings, "start"]
    subprocess.run([*control, *log], check=True, **quiet)  # type: ignore[call-overload]


def _data(database: str) -> Path:
    import psycopg

    with psycopg.connect(database) as connection:
        (folder,) = connection.execute("SHOW data_directory").fetchone()  # type: ignore[misc]
    return Path(folder)


@contextmanager
def stopped(database: str) -> Iterator[None]:
    """The whole server is stopped (SIGSTOP), as by a stalled disk: the kernel still acknowledges what it is sent."""
    main = int((_data(database) / "postmaster.pid").read_text().split()[0])
    processes = [main]
    _signal(processes, signal.SIGSTOP)  # it makes no more
    for thread in Path(f"/proc/{main}/task").iterdir():
        processes += map(int, (thread / "children").read_text().split())
    _signal(processes, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(processes, signal.SIGCONT)


def _signal(processes: list[int], number: int) -> None:
    for pid in processes:
        with suppress(ProcessLookupError):  # a backend whose client has just gone
            os.kill(pid, number)
