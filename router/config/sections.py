"""The sections of routing.yaml but the rules: which keys there are and how each is read.

A new key: here, its default in `settings`, its line in `routing.yaml` (tests hold the three together).
"""

from __future__ import annotations

from typing import Any

from router.config import values
from router.config.document import Node, Scalar, Sequence
from router.config.fields import (
    Context,
    Parser,
    Skip,
    as_table,
    attempt_all,
    existing_file,
    existing_folder,
    fields,
    path,
    scalar,
    several,
)
from router.config.hours import hours
from router.config.object_store import object_store
from router.config.secret_files import authorities, check_pair
from router.config.settings import (
    Accept,
    ClientTls,
    DestinationSettings,
    ModelSettings,
    NodeSettings,
    ReportTo,
    ServerTls,
    SignOn,
    SpoolSettings,
    WebSettings,
    WebTls,
)
from router.config.stow import check_stow, http_auth, of_address, proxy_address, web_address
from router.config.uids import transfer_syntax

SAME_ASSOCIATION = "same association"

_COUNT = scalar(values.whole(1, 10_000))
_BOOLEAN = scalar(values.boolean)
_PORT = scalar(values.port)
_AE_TITLE = scalar(values.ae_title)
_DURATION = scalar(values.duration)
_SIZE = scalar(values.size)
_RATE = scalar(values.rate)


def required(where: str, node: Node, found: dict[str, Any], names: dict[str, str], context: Context) -> None:
    """Report what must be there and is not; a key that is there and wrong has been reported already."""
    there = as_table(where, node, context).entries
    for name, example in names.items():
        if name not in there:
            context.problems.add(node.line, f"{where} has no {name}", f"add for instance {name}: {example}")
    if any(name not in found for name in names):
        raise Skip


def _report_to(where: str, node: Node, context: Context) -> ReportTo:
    if isinstance(node, Scalar) and node.text == SAME_ASSOCIATION:
        return ReportTo()
    known = {"host": scalar(values.host), "port": _PORT, "tls": client_tls}
    found = fields(where, node, known, context)
    required(where, node, found, {"host": "10.1.0.31", "port": "104"}, context)
    return ReportTo(**found)


def _accept_line(where: str, node: Node, context: Context) -> Accept:
    known = {"ae_title": _AE_TITLE, "peer": scalar(values.network), "commitment": _report_to}
    found = fields(where, node, known, context)
    if "commitment" in found and "ae_title" not in found:
        context.wrong(node, f"{where}: commitment needs an ae_title, because the report calls it", "add its ae_title")
        raise Skip
    if not as_table(where, node, context).entries:
        context.wrong(
            node, f"{where}: a line without ae_title and peer accepts every caller", "give ae_title, peer, or both"
        )
        raise Skip
    return Accept(**found)


def accept(where: str, node: Node, context: Context) -> tuple[Accept, ...]:
    if not isinstance(node, Sequence) or not node.items:
        fix = "write - {ae_title: XRAY_1, peer: 10.1.0.0/16}, or leave the key out to accept every caller"
        context.wrong(node, f"{where} must be a list of callers", fix)
        raise Skip
    return tuple(attempt_all(lambda item: _accept_line(where, item, context), node.items))


def server_tls(where: str, node: Node, context: Context) -> ServerTls:
    known = {"port": _PORT, "certificate": existing_file, "key": existing_file, "ca": authorities}
    found = fields(where, node, known, context)
    required(where, node, found, {"certificate": "node.crt", "key": "node.key"}, context)
    _check_pair(where, node, found, context)
    return ServerTls(**found)


def client_tls(where: str, node: Node, context: Context) -> ClientTls:
    known = {"ca": authorities, "certificate": existing_file, "key": existing_file, "verify_host": _BOOLEAN}
    found = fields(where, node, known, context)
    written = as_table(where, node, context).entries
    if ("certificate" in written) != ("key" in written):
        context.wrong(node, f"{where} has only one of certificate and key", "write both, or leave both out")
        raise Skip
    _check_pair(where, node, found, context)
    return ClientTls(**found)


def _check_pair(where: str, node: Node, found: dict[str, Any], context: Context) -> None:
    if "certificate" in found and "key" in found:
        place = as_table(where, node, context).entries["certificate"]
        check_pair(f"{where}.certificate", place, found["certificate"], found["key"], context)


def web_tls(where: str, node: Node, context: Context) -> WebTls:
    found = fields(where, node, {"certificate": existing_file, "key": existing_file}, context)
    required(where, node, found, {"certificate": "node.crt", "key": "node.key"}, context)
    _check_pair(where, node, found, context)
    return WebTls(**found)


def sign_on(where: str, node: Node, context: Context) -> SignOn:
    header = scalar(values.header_name)
    found = fields(where, node, {"header": header, "roles_header": header, "from": several(values.proxy)}, context)
    required(where, node, found, {"header": "X-Remote-User", "from": "[10.0.0.5]"}, context)
    return SignOn(found["header"], found["from"], found.get("roles_header"))


def roles(where: str, node: Node, context: Context) -> tuple[str, ...]:
    """A list of roles, or one text with commas."""
    return values.in_order(one for some in several(values.roles)(where, node, context) for one in some)


NODE: dict[str, Parser] = {
    "name": scalar(values.node_name),
    "roles": roles,
    "ae_title": _AE_TITLE,
    "address": scalar(values.address),
    "port": _PORT,
    "accept": accept,
    "tls": server_tls,
    "require_called_ae": _BOOLEAN,
    "dry_run": _BOOLEAN,
    "unknown_sop_classes": _BOOLEAN,
    "associations": _COUNT,
    "associations_per_peer": _COUNT,
    "unspoken_connections": _COUNT,
    "artim": _DURATION,
    "idle": _DURATION,
    "least_rate": _RATE,
    "instance_limit": _SIZE,
    "commitment_deadline": _DURATION,
    "drain": scalar(values.duration_or_zero),
    "log": scalar(values.one_of("console", "json")),
}
SPOOL: dict[str, Parser] = {
    "path": path,
    "database": scalar(values.database),
    "blobs": object_store,
    "cache": _SIZE,
    "keep": _DURATION,
    "keep_records": _DURATION,
    "limit": _SIZE,
    "reserve": _SIZE,
}
MODEL: dict[str, Parser] = {
    "path": existing_folder,
    "device": scalar(values.one_of("auto", "cpu", "cuda")),
    "engine": scalar(values.one_of("auto", "torch", "openvino")),
    "threads": scalar(values.whole(0, 1024)),
    "workers": scalar(values.whole(0, 256)),
    "pixel_timeout": _DURATION,
    "pixel_memory": _SIZE,
}
WEB: dict[str, Parser] = {
    "address": scalar(values.address),
    "port": _PORT,
    "page": _BOOLEAN,
    "tls": web_tls,
    "behind_proxy": several(values.proxy),
    "sign_on": sign_on,
}
DESTINATION: dict[str, Parser] = {
    "ae_title": _AE_TITLE,
    "host": scalar(values.host),
    "port": _PORT,
    "stow": scalar(web_address),
    "auth": http_auth,
    "allow_http": _BOOLEAN,
    "proxy": scalar(proxy_address),
    "calling_ae_title": _AE_TITLE,
    "tls": client_tls,
    "enabled": _BOOLEAN,
    "associations": _COUNT,
    "idle": _DURATION,
    "echo": _BOOLEAN,
    "syntaxes": several(transfer_syntax),
    "limit": scalar(values.whole(1, 10**9)),
    "give_up_after": _DURATION,
    "connect_timeout": _DURATION,
    "response_timeout": _DURATION,
    "least_rate": _RATE,
    "gather": _DURATION,
    "gather_limit": _DURATION,
    "hours": several(hours),
    "limit_rate": scalar(values.how_often),
    "archive": _BOOLEAN,
    "results_from": several(values.ae_title),
    "expect_result": _DURATION,
    "fallback": scalar(values.destination_name),
}


def node_section(where: str, node: Node, context: Context) -> NodeSettings:
    return NodeSettings(**fields(where, node, NODE, context))


def spool_section(where: str, node: Node, context: Context) -> SpoolSettings:
    found = fields(where, node, SPOOL, context)
    if "blobs" in found and found.get("database", "sqlite") == "sqlite":
        place = as_table(where, node, context).entries["blobs"]
        words = "images in an object store need a database that outlives this machine"
        fix = "set spool.database to postgresql://host/database, or leave blobs out"
        context.wrong(place, f"{where}.blobs: {words}", fix)
        raise Skip
    return SpoolSettings(**{"path": context.folder / SpoolSettings().path, **found})


def model_section(where: str, node: Node, context: Context) -> ModelSettings:
    return ModelSettings(**fields(where, node, MODEL, context))


def web_section(where: str, node: Node, context: Context) -> WebSettings:
    settings = WebSettings(**fields(where, node, WEB, context))
    if settings.page and settings.why_no_page:
        place = as_table(where, node, context).entries["page"]
        fix = "set web.tls (certificate and key), or web.behind_proxy (the proxy's address), or web.address: 127.0.0.1"
        context.wrong(place, f"{where}.page: {settings.address} is open to others, who could read along", fix)
        raise Skip
    return settings


def destination(name: str, node: Node, context: Context) -> DestinationSettings:
    where = f"destination '{name}'"
    found = fields(where, node, DESTINATION, context)
    check_stow(where, node, found, context)
    if "stow" in found:
        found = of_address(found["stow"]) | found
    else:
        required(where, node, found, {"ae_title": "CHEST_AI", "host": "10.1.0.21", "port": "104"}, context)
    settings = DestinationSettings(name=name, **found)
    if settings.gather is not None and settings.gather > settings.gather_limit:
        place = as_table(where, node, context).entries["gather"]
        context.wrong(place, f"{where}.gather is longer than gather_limit", "make gather_limit longer: 10min is usual")
        raise Skip
    return settings
