"""Nodes with roles, as processes that share one PostgreSQL database and one folder with blobs: each on a machine of its
own, so to say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.peers import free_port, http, process, without_model

MARK = "torch was imported"


@dataclass
class Machine:
    """One node: its routing.yaml, its ports, its process while it runs."""

    folder: Path
    role: str
    environment: Mapping[str, str]
    port: int = field(default_factory=free_port)
    web_port: int = field(default_factory=free_port)
    child: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> Path:
        return self.folder / "routing.yaml"

    @property
    def log(self) -> str:
        return (self.folder / "node.log").read_text(errors="replace")

    def write(self, site: Site, shared: str | None = None) -> None:
        self.folder.mkdir(exist_ok=True)
        self.config.write_text(
            f"node: {{ae_title: ROUTER, address: 127.0.0.1, port: {self.port}, name: {self.folder.name}}}\n"
            f"web: {{address: 127.0.0.1, port: {self.web_port}}}\n"
            f"spool: {{path: {site.folder / 'spool'}, database: '{site.database}', reserve: 1 MB}}\n"
            f"model: {{device: cpu, workers: 1}}\n{shared or site.shared}"
        )

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "router", "serve", "--config", self.config, "--role", self.role]
        log, last = self.folder / "node.log", self.port if "receive" in self.role else self.web_port
        with process(command, last, log, cwd=self.folder, seconds=120, environment=self.environment) as child:
            self.child = child
            yield child

    def get(self, path: str) -> Any:
        return json.loads(http(f"http://127.0.0.1:{self.web_port}{path}"))

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "router", *words, "--config", str(self.config)]
        return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)


@dataclass
class Site:
    """What all machines share."""

    folder: Path
    database: str
    shared: str
    """The part of routing.yaml that is the same everywhere."""
    machines: dict[str, Machine] = field(default_factory=dict)

    def add(self, name: str, role: str) -> Machine:
        """A node that is to be started. Where it classifies, a stand-in takes the place of the model. Elsewhere an
        import of PyTorch leaves a mark, also in the processes below it."""
        torch = self.folder / "torch" / "torch"
        torch.mkdir(parents=True, exist_ok=True)
        (torch / "__init__.py").write_text(f"open({str(self.folder / MARK)!r}, 'a').close()\nraise ImportError\n")
        classifies = "classify" in role
        machine = Machine(
            self.folder / name, role, without_model() if classifies else {"PYTHONPATH": str(torch.parent)}
        )
        machine.write(self)
        self.machines[name] = machine
        return machine

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]


@contextmanager
def running(site: Site, stop_in_order: Callable[[Machine], int] = lambda _: 0) -> Iterator[Site]:
    with ExitStack() as stack:
        for machine in sorted(site.machines.values(), key=stop_in_order):
            stack.enter_context(machine.running())
        yield site
