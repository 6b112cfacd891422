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
from pathlib import Path

import psycopg

SYNCED = ("listen_addresses=", "max_connections=60")
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

    def run(program: str, *arguments: str) -> None:
        before = ("runuser", "-u", "postgres", "--") if os.geteuid() == 0 else ()
        command = [*before, str(bin_folder / program), *arguments]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=60)

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
        run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


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
