"""What the tests of several nodes share: nodes without a model in this process, each with its own routing.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from router.config import Settings, load
from router.node.node import Node
from tests.peers import free_port

SHARED = """\
destinations:
  ai: {ae_title: AI, host: 127.0.0.1, port: 1}
  archive: {ae_title: ARCHIVE, host: 127.0.0.1, port: 1}
rules: []
otherwise: {send: ai}
"""


@dataclass
class Machine:
    """A machine with a routing.yaml in its folder, and perhaps a node."""

    folder: Path
    spool: Path
    database: str
    local: str
    web_port: int
    node: Node | None = None

    @property
    def file(self) -> Path:
        return self.folder / "routing.yaml"

    def write(self, shared: str = SHARED, local: str = "") -> None:
        """`local` adds keys to `node`."""
        self.folder.mkdir(exist_ok=True)
        self.file.write_text(
            f"node: {{address: 127.0.0.1, {self.local}{local}}}\nweb: {{port: {self.web_port}}}\n"
            f"spool: {{path: {self.spool}, database: '{self.database}', reserve: 1 MB}}\n{shared}"
        )

    def settings(self) -> Settings:
        return load(self.file, {})

    @contextmanager
    def running(self) -> Iterator[Node]:
        node = self.node = Node(self.settings())
        try:
            node.start()
            yield node
        finally:
            node.stop(5)


def machine(tmp_path: Path, database: str, name: str, role: str = "forward", spool: str = "spool") -> Machine:
    made = Machine(
        tmp_path / name, tmp_path / spool, database, f"name: {name}, port: {free_port()}, roles: {role}", free_port()
    )
    made.write()
    return made
