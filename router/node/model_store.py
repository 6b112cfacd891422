"""The copies of models in the spool's folder, and the choice of which one serves, served before, or shadows.

They are in `models/` in the spool's folder. A copy is whole or absent. `state.json` is replaced as a whole, so a crash
leaves the old choice or the new one. Several nodes (PostgreSQL) share the choice, so there it is a row. Nothing here
loads a model or PyTorch, because the node imports this module too.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from router.errors import RouterError
from router.model import files
from router.node.orders import ModelOrder, Promote, RollBack, SetShadow

if TYPE_CHECKING:
    from router.config import Settings
    from router.config.settings import SpoolSettings
    from router.spool.shared import ChoiceVersion

FILES = ("model.safetensors", "card.json", "int8.safetensors", "reference.json", "MODEL_CARD.md", "LICENSE")
"""The files that are copied from a model's folder. The first two must exist."""
NAME = re.compile(r"[0-9a-f]{16}-[0-9a-f]{8}")
STATE = "state.json"
FOLDER = "models"
KEPT_UNUSED = 86400.0
"""Seconds that a copy is kept on one of several nodes though it is not chosen: it may be chosen on another one."""


class StoreError(RouterError):
    """The model cannot be copied, or is not there. The text is one line with the fix."""


class Choices(Protocol):
    """Where the choice is that several nodes share (`spool.shared.Shared`)."""

    def choice(self) -> ChoiceVersion | None: ...

    def publish_choice(self, text: str, who: str, *, after: int) -> ChoiceVersion: ...


@dataclass(frozen=True, slots=True)
class Chosen:
    """A chosen model of the store: its name, since when (Unix seconds), and by whom."""

    name: str
    since: float
    who: str


@dataclass(frozen=True, slots=True)
class State:
    """What a person chose. `serving` None: the model of routing.yaml.

    `configured` is the `model.path` at the time of the choice. If a person changes it later, routing.yaml decides.
    """

    configured: str = ""
    serving: Chosen | None = None
    previous: Chosen | None = None
    shadow: Chosen | None = None
    version: int = field(default=0, compare=False)
    """Of the choice that several nodes share; 0 for that of a file."""

    def as_dict(self) -> dict[str, Any]:
        found = asdict(self)
        del found["version"]
        return found


class ModelStore:
    """The models of one spool. Only the process that works on it changes them: the node, or else a command."""

    def __init__(self, spool: Path, configured: Path | None, shared: Choices | None = None) -> None:
        """`shared`: where the choice is that several nodes share. A choice is then in force whatever `configured`."""
        self._shared = shared
        self.folder = spool / FOLDER
        self._model_path = configured
        self.configured = str(configured.resolve()) if configured else ""

    def state(self) -> State:
        """What is chosen. Raises StoreError if it cannot be read."""
        found = self._read()
        if self._shared or found.configured == self.configured:
            return found
        return replace(State(self.configured), shadow=found.shadow)

    def is_overruled(self) -> bool:
        """Whether `model.path` was changed after a model was promoted, so that routing.yaml decides."""
        found = self._read()
        return not self._shared and found.serving is not None and found.configured != self.configured

    def serving(self) -> Path | None:
        """The folder of the model that serves: the promoted one's, or `model.path`. Raises StoreError."""
        return self.path(self.state().serving) or self._model_path

    def path(self, chosen: Chosen | None) -> Path | None:
        """The folder of a chosen model. Raises StoreError if this one of several nodes does not have it."""
        if chosen is None:
            return None
        kept = self.folder / chosen.name
        if self._shared and not (kept / FILES[0]).exists():
            configured = self._model_path or files.shipped_model()
            if _name(configured) != chosen.name:
                raise StoreError(
                    f"{socket.gethostname()} has no model {chosen.name}; copy it there: dicom-router model keep DIR"
                )
            return configured
        return kept

    def share_file(self) -> None:
        """Let the choice of this folder's file be the shared one, if there is none: an earlier version wrote it."""
        if not self._shared or self._shared.choice() is not None or not (self.folder / STATE).is_file():
            return
        text = (self.folder / STATE).read_text(encoding="utf-8")
        found = _parsed(json.loads(text), 0)
        if found.configured != self.configured:
            found = replace(State(self.configured), shadow=found.shadow)
        self._shared.publish_choice(json.dumps(found.as_dict()), "", after=0)

    # -- copies ----------------------------------------------------------------------------------------------------

    def keep(self, source: Path, beside: Mapping[str, bytes] | None = None) -> str:
        """Copy a model's folder, with these files beside, durably, and return its name. Raises OSError."""
        self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        with _alone(self.folder):
            part = self.folder / "part"
            shutil.rmtree(part, ignore_errors=True)  # a crash left it
            part.mkdir(mode=0o700)
            for name in FILES:
                if name in FILES[:2] or (source / name).is_file():
                    _copy(source / name, part / name)
            for name, content in (beside or {}).items():
                files.replace(part / name, content, 0o600)
            name = _name(part)
            _give_to_owner(self.folder, part)
            files.sync(part)
            kept = self.folder / name
            if kept.exists() and _name(kept) != name:  # the disk has damaged it
                shutil.rmtree(kept)
            if not kept.exists():
                part.rename(kept)
            files.sync(self.folder)
        return name

    # -- choices ---------------------------------------------------------------------------------------------------

    def plan(self, order: ModelOrder, who: str, *, runs_here: bool = True) -> State:
        """The state after an order. This changes nothing yet. Raises StoreError.

        `runs_here`: this node classifies, so what serves must be here. Otherwise what served before may be elsewhere.
        """
        if order.configured != self.configured and not self._shared:
            raise StoreError("model.path in routing.yaml has changed since the node started; restart it first")
        old = self.state()
        match order:
            case Promote(model, before):
                was = old.serving or self._chosen(before, "")
                if model == was.name:
                    raise StoreError(f"{model} serves already")
                shadow = None if old.shadow and old.shadow.name == model else old.shadow
                return replace(old, serving=self._chosen(model, who), previous=was, shadow=shadow)
            case RollBack():
                if old.previous is None:
                    raise StoreError("no other model served before, so there is nothing to roll back to")
                back = Chosen(old.previous.name, time.time(), who)
                return replace(
                    old, serving=self._chosen(back.name, who) if runs_here else back, previous=old.serving
                )  # fmt: skip
            case SetShadow(wanted):
                return replace(old, shadow=self._chosen(wanted, who) if wanted else None)

    def write(self, state: State, who: str = "") -> State:
        """Make a plan the state, durably, and return it. If it raises OSError or SpoolError, the state is as before."""
        text = json.dumps(state.as_dict(), indent=1)
        if self._shared:
            state = replace(state, version=self._shared.publish_choice(text, who, after=state.version).version)
        else:
            files.replace(self.folder / STATE, text.encode() + b"\n", 0o600)
        self.forget_unused()
        return state

    # -- inside ----------------------------------------------------------------------------------------------------

    def _chosen(self, name: str, who: str) -> Chosen:
        chosen = Chosen(name, time.time(), who)
        if NAME.fullmatch(name) and self._shared:
            self.path(chosen)
        elif not NAME.fullmatch(name) or not (self.folder / name / FILES[0]).exists():
            raise StoreError("no such model in the spool's folder; give the command again with the model's folder")
        return chosen

    def _read(self) -> State:
        path: Path | str = self.folder / STATE
        version = 0
        try:
            if self._shared:
                path = "the shared choice of models"
                newest = self._shared.choice()
                if newest is None:
                    return State(self.configured)
                raw, version = json.loads(newest.text), newest.version
            else:
                raw = json.loads((self.folder / STATE).read_bytes())
            return _parsed(raw, version)
        except FileNotFoundError:
            return State(self.configured)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; make it readable for the node's user") from error
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path}: damaged; remove it, then the model of routing.yaml serves") from error

    def forget_unused(self) -> None:
        """Remove copies that the state does not name."""
        state = self._read()
        needed = {one.name for one in (state.serving, state.previous, state.shadow) if one}
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            young = self._shared and time.time() - path.stat().st_mtime < KEPT_UNUSED
            if NAME.fullmatch(path.name) and path.name not in needed and not young:
                shutil.rmtree(path, ignore_errors=True)


def _parsed(raw: Mapping[str, Any], version: int) -> State:
    """Raises ValueError, KeyError or TypeError for what is no choice."""
    chosen = {k: Chosen(**raw[k]) if raw[k] else None for k in ("serving", "previous", "shadow")}
    for one in filter(None, chosen.values()):
        if not NAME.fullmatch(one.name):
            raise ValueError(one.name)
    return State(str(raw["configured"]), **chosen, version=version)


def opened(settings: Settings) -> ModelStore:
    """The models of a spool, for a command, which writes no choice. What reads it raises SpoolError."""
    shared = None if settings.spool.database == "sqlite" else _Looking(settings.spool)
    return ModelStore(settings.spool.path, settings.model.path, shared)


class _Looking:
    """Looks up the shared choice, and keeps no connection."""

    def __init__(self, spool: SpoolSettings) -> None:
        self._spool = spool

    def choice(self) -> ChoiceVersion | None:
        from router.spool import read_spool

        with closing(read_spool(self._spool)) as spool:
            return spool.shared.choice() if spool.shared.is_there() else None

    def publish_choice(self, text: str, who: str, *, after: int) -> ChoiceVersion:
        raise StoreError("this command writes no choice of models")


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as old, os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as new:
        shutil.copyfileobj(old, new, 1 << 20)
        new.flush()
        os.fsync(new.fileno())


def _name(folder: Path) -> str:
    """The name is made of weights and card: the same weights with other thresholds give other answers."""
    weights, card = (files.digest(folder / name) for name in FILES[:2])
    return f"{weights[:16]}-{card[:8]}"


def _give_to_owner(folder: Path, part: Path) -> None:
    """If the superuser copies a model, the node's user, who owns the spool, must be able to read it."""
    owner = folder.parent.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        for path in (folder, part, *part.iterdir()):
            os.chown(path, owner.st_uid, owner.st_gid)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lets two commands copy one after the other."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
