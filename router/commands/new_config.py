"""A routing.yaml for one site, cut from the shipped one, so that comments and rules have one source."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from router.config import values
from router.config.problems import nearest
from router.config.values import WrongError
from router.flow import CLASSES

CATCH_ALL = "catch-all"
AI_CLASSES = tuple(name for name in CLASSES if name != "others")
"""The classes that an AI can have; `others` goes to people."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A downstream node as `AE@HOST:PORT`."""

    ae_title: str
    host: str
    port: int


def endpoint(text: str) -> Endpoint:
    """`CHEST_AI@10.1.0.21:104` or `CHEST_AI@[fd00::1]:104`. Raises WrongError."""
    title, at, rest = text.strip().rpartition("@")
    host, colon, port = rest.rpartition(":")
    if not (at and colon):
        raise WrongError(f"'{text}' is not AE@HOST:PORT", "write for instance CHEST_AI@10.1.0.21:104")
    if _looks_swapped(title, host):
        meant = f"{host}@[{title}]:{port}" if ":" in title else f"{host}@{title}:{port}"
        raise WrongError(f"'{title}' is a host, and is in the place of the AE title", f"write {meant}")
    return Endpoint(values.ae_title(title), values.host(host), values.port(port))


def _looks_swapped(title: str, host: str) -> bool:
    """Whether what stands before the @ is an address, or a name in a domain beside a host like an AE title."""
    try:
        ip_address(title.strip("[] "))
    except ValueError:
        return bool(re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", title)) and bool(re.fullmatch(r"[A-Z0-9_]+", host))
    return True


def ai(text: str) -> tuple[str, Endpoint]:
    """`adult_chest=CHEST_AI@10.1.0.21:104`: a class and its AI. Raises WrongError."""
    name, equals, rest = text.partition("=")
    if not equals:
        raise WrongError(f"'{text}' is not CLASS=AE@HOST:PORT", "write for instance spine=SPINE_AI@10.1.0.24:104")
    name = name.strip().lower().replace("-", "_")
    if name not in AI_CLASSES:
        raise WrongError(f"there is no AI for the class '{name}'", nearest(name, AI_CLASSES))
    return name, endpoint(rest)


def destination_of(class_name: str) -> str:
    """The name of a class's destination in the shipped file: `adult-chest-ai`."""
    return class_name.replace("_", "-") + "-ai"


def generated(shipped: str, ais: Mapping[str, Endpoint], catch_all: Endpoint) -> str:
    """The shipped text with these AIs (class to endpoint) and without the destinations and rules of the others.

    A destination, a rule or a comment is a block between empty lines. A rule goes when it sends to an absent
    destination; a rule or comment also when it names classes and none of them has an AI.
    """
    endpoints = {destination_of(name): to for name, to in ais.items()} | {CATCH_ALL: catch_all}
    absent = frozenset(destination_of(name) for name in AI_CLASSES) - endpoints.keys()
    blocks = (_placed(block, endpoints) for block in shipped.split("\n\n"))
    return "\n\n".join(block for block in blocks if not _needless(block, ais, absent))


def _placed(block: str, endpoints: Mapping[str, Endpoint]) -> str:
    """The lines of destinations with the site's own addresses."""

    def line(match: re.Match[str]) -> str:
        to = endpoints.get(match[1])
        if to is None:
            return match[0]
        return f"  {match[1]}: {{ae_title: {_text(to.ae_title)}, host: {_text(to.host)}, port: {to.port}}}"

    return re.sub(r"^  ([a-z-]+): \{ae_title: .*\}$", line, block, flags=re.MULTILINE)


def _needless(block: str, ais: Mapping[str, Endpoint], absent: frozenset[str]) -> bool:
    named = re.match(r"\s*([a-z-]+): \{ae_title: ", block)
    if named:
        return named[1] in absent
    sends = re.search(r"^    send: ([a-z-]+)$", block, re.MULTILINE)
    if sends is None and not all(line.lstrip().startswith("#") for line in block.splitlines()):
        return False
    classes = set(re.findall(r"\b(?:" + "|".join(AI_CLASSES) + r")\b", block))
    return (sends is not None and sends[1] in absent) or (bool(classes) and not classes & ais.keys())


def _text(value: str) -> str:
    return value if re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*|[0-9]+(\.[0-9]+){3}", value) else json.dumps(value)
