"""A web server that does as it is told. It reads and writes HTTP by hand, so that it can answer as no server would."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BufferedReader
from typing import Any

from router.config.settings import ClientTls, DestinationSettings
from tests.unit.listener import Listener

JSON = "application/dicom+json"


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def files(self) -> list[bytes]:
        """The Part 10 files of a STOW-RS request; fails where the multipart is not strictly as PS3.18 has it."""
        matched = re.fullmatch(
            r'multipart/related; type="application/dicom"; boundary=([0-9a-f]+)', self.headers["content-type"]
        )
        assert matched
        boundary = matched[1].encode()
        head = b"--" + boundary + b"\r\nContent-Type: application/dicom\r\n\r\n"
        tail = b"\r\n--" + boundary + b"--\r\n"
        assert self.body.startswith(head)
        assert self.body.endswith(tail)
        found = self.body[len(head) : -len(tail)].split(b"\r\n" + head)
        assert not [file for file in found if boundary in file]
        return found

    @property
    def file(self) -> bytes:
        """The one Part 10 file."""
        (found,) = self.files
        return found

    @property
    def instances(self) -> list[str]:
        """Their SOP Instance UIDs by the file meta information, which begins after the preamble."""
        return [_instance_of(file) for file in self.files]

    @property
    def instance(self) -> str:
        return _instance_of(self.file)


def _instance_of(file: bytes) -> str:
    at = file.index(b"\x02\0\x03\0UI") + 6
    size = int.from_bytes(file[at : at + 2], "little")
    return file[at + 2 : at + 2 + size].rstrip(b"\0").decode()


def element(vr: str, *values: Any) -> dict[str, Any]:
    return {"vr": vr, "Value": list(values)}


def stored(*instances: str, warning: int | None = None) -> dict[str, Any]:
    items = [{"00081150": element("UI", "1.2"), "00081155": element("UI", one)} for one in instances]
    for item in items if warning is not None else ():
        item["00081196"] = element("US", warning)
    return {"00081199": element("SQ", *items)}


def failed(instance: str | None, reason: int | None, tag: str = "00081198") -> dict[str, Any]:
    item = {} if instance is None else {"00081155": element("UI", instance)}
    if reason is not None:
        item["00081197"] = element("US", reason)
    return {tag: element("SQ", item)}


class Talk:
    """One connection, from the server's side."""

    def __init__(self, peer: WebPeer, sock: socket.socket) -> None:
        self.peer, self.sock = peer, sock
        self._file: BufferedReader = sock.makefile("rb")

    def head(self) -> tuple[str, dict[str, str]]:
        """The request line and the headers. Raises EOFError at the end."""
        line = self._file.readline().decode("ascii").strip()
        if not line:
            raise EOFError
        headers: dict[str, str] = {}
        while text := self._file.readline().decode("ascii").strip():
            name, _, value = text.partition(": ")
            assert name.lower() not in headers
            headers[name.lower()] = value
        return line, headers

    def request(self) -> Request:
        line, headers = self.head()
        method, target, version = line.split(" ")
        assert version == "HTTP/1.1"
        size = int(headers["content-length"])
        body = self._file.read(size)
        if len(body) < size:
            raise EOFError
        got = Request(method, target, headers, body)
        self.peer.requests.append(got)
        return got

    def answer(self, status: int, body: bytes | dict[str, Any] = b"", media_type: str = JSON, **headers: str) -> None:
        text = json.dumps(body).encode() if isinstance(body, dict) else body
        lines = [f"HTTP/1.1 {status} Words", f"Content-Length: {len(text)}", f"Content-Type: {media_type}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.raw("\r\n".join([*lines, "", ""]).encode() + text)

    def raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    def serve(self) -> None:
        """As a good server: store everything, know OPTIONS."""
        while True:
            got = self.request()
            if got.method == "OPTIONS":
                self.answer(204)
            else:
                self.answer(200, stored(*got.instances))

    def until_closed(self) -> None:
        self.sock.settimeout(10)
        with contextlib.suppress(ConnectionError):
            while self.sock.recv(1 << 16):
                pass


Script = Callable[[Talk], None]


@dataclass
class WebPeer(Listener[Talk]):
    script: Script = Talk.serve
    requests: list[Request] = field(default_factory=list)

    def talk(self, sock: socket.socket) -> Talk:
        return Talk(self, sock)

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}/dicom-web/studies"

    @property
    def posted(self) -> list[Request]:
        return [one for one in self.requests if one.method == "POST"]

    def destination(self, **changes: object) -> DestinationSettings:
        values: dict[str, object] = {
            "name": "dest", "ae_title": "", "host": "127.0.0.1", "port": self.port, "stow": self.url,
            "connect_timeout": 2.0, "response_timeout": 2.0, "idle": 0.2, "tls": ClientTls() if self.tls else None,
        }  # fmt: skip
        return DestinationSettings(**(values | changes))  # type: ignore[arg-type]


def answering(status: int, body: bytes | dict[str, Any] = b"", media_type: str = JSON, **headers: str) -> Script:
    """The script of a server that answers everything alike."""

    def script(talk: Talk) -> None:
        while True:
            talk.request()
            talk.answer(status, body, media_type, **headers)

    return script


def about_ours(status: int, say: Callable[[str], dict[str, Any]]) -> Script:
    """The script of a server whose answer names the instance that came."""

    def script(talk: Talk) -> None:
        while True:
            talk.answer(status, say(talk.request().instance))

    return script
