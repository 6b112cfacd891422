"""`spool.blobs`: the bucket of an object store that speaks S3, as one address with its options.

    s3://bucket/prefix?endpoint=https://s3.example.org&region=eu-central-1&credentials=s3.ini&sse=AES256

Secrets have no place in it: they come from the environment or from a file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from router.config import values
from router.config.document import Node
from router.config.fields import Context, Skip, scalar
from router.config.problems import nearest
from router.config.settings import ObjectStore
from router.config.values import WrongError

EXAMPLE = "write for instance s3://images/router?endpoint=https://s3.example.org&region=eu-central-1"
BUCKET = re.compile(r"[a-z0-9](?:[a-z0-9.-]{1,61})[a-z0-9]")
PREFIX = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
LONGEST_PREFIX = 400
KMS = "aws:kms"


def _word(pattern: str, example: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise WrongError("has characters that it cannot have", f"write for instance {example}")
        return value

    return parse


def _endpoint(value: str) -> str:
    try:
        parts = urlsplit(value)
        found = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        found = None
    if not found or parts.username is not None or parts.query or parts.fragment or parts.path.strip("/"):
        raise WrongError("is not an endpoint", "write for instance endpoint=https://s3.example.org:9000")
    return value.rstrip("/")


OPTIONS: dict[str, Callable[[str], object]] = {
    "endpoint": _endpoint,
    "region": _word(r"[a-z0-9-]{1,40}", "region=eu-central-1"),
    "credentials": values.text,
    "sse": values.one_of("AES256", KMS),
    "kms_key": _word(r"[A-Za-z0-9:/_-]{1,300}", "kms_key=alias/images"),
    "ca": values.text,
    "virtual_host": values.boolean,
    "allow_http": values.boolean,
}


def object_store(where: str, node: Node, context: Context) -> ObjectStore:
    """A parser of `spool.blobs`. Paths in it are relative to the file."""
    found: ObjectStore = scalar(parse)(where, node, context)
    for name in ("credentials", "ca"):
        written: Path | None = getattr(found, name)
        if written is not None and not (context.folder / written).is_file():
            context.wrong(node, f"{where}: {name}: there is no file {context.folder / written}",
                          "paths are relative to this file's folder")  # fmt: skip
            raise Skip
    return found.below(context.folder)


def parse(value: str) -> ObjectStore:
    """The bucket and its options. Messages repeat no value: somebody may have written a secret into it."""
    parts = urlsplit(value.strip())
    bucket, prefix = parts.netloc, parts.path.strip("/")
    if parts.scheme != "s3" or parts.fragment:
        raise WrongError("is not the address of a bucket", EXAMPLE)
    if not BUCKET.fullmatch(bucket):
        raise WrongError("has no valid bucket", EXAMPLE + "; credentials come from the environment or from a file")
    if prefix and (not PREFIX.fullmatch(prefix) or len(prefix) > LONGEST_PREFIX):
        raise WrongError("has a prefix that it cannot have", "use letters, digits, - _ . and / between its parts")
    options: dict[str, object] = {}
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name not in OPTIONS:
            raise WrongError("has an unknown option", nearest(name, OPTIONS))
        if name in options:
            raise WrongError(f"has {name} twice", "write it once")
        try:
            options[name] = OPTIONS[name](text)
        except WrongError as error:
            raise WrongError(f"{name} {error.message}", error.fix) from None
    for name in ("credentials", "ca"):
        if name in options:
            options[name] = Path(str(options[name]))
    store = ObjectStore(bucket, prefix, **options)  # type: ignore[arg-type]
    if store.kms_key and store.sse != KMS:
        raise WrongError("has kms_key without sse=aws:kms", "add sse=aws:kms")
    if (store.endpoint or "").startswith("http:") and not store.allow_http:
        raise WrongError(
            "would send images unencrypted to an endpoint without TLS",
            "use https://, or add allow_http=true where the network between is your own",
        )
    return store
