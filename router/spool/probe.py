"""Tries an object store as a node will use it: for `check`."""

from __future__ import annotations

from collections.abc import Iterator

from router.config.settings import ObjectStore
from router.spool.blobs import new_id
from router.spool.objects import NoObjectError, Objects, StoreError

CONTENT = b"written by dicom-router check\n"


def examine(settings: ObjectStore) -> Iterator[tuple[str, str]]:
    """(state, text). Writes one small object below the prefix, reads it, lists it, and removes it."""
    try:
        store = Objects(settings)
    except StoreError as error:
        yield "failed", str(error)
        return
    doing, key = "be written to", f"probe/{new_id()}"
    try:
        store.begin(store.write(key, CONTENT)).result()
        doing = "be read"
        is_same = store.begin(store.read(key)).result() == CONTENT
        doing = "be listed"
        store.begin(_first_page(store)).result()
        doing = "remove an object"
        store.begin(store.delete([key])).result()
    except (StoreError, NoObjectError) as error:
        yield "failed", f"cannot {doing}: {error}"
        return
    finally:
        store.close()
    if not is_same:
        yield "failed", f"{settings.name} gives back other bytes than were written"
        return
    yield "ok", f"{settings.name} can be written, read, listed and removed from"
    if settings.allow_http and (settings.endpoint or "").startswith("http:"):
        yield "warning", f"{settings.endpoint}: images go there unencrypted"


async def _first_page(store: Objects) -> None:
    async for _ in store.pages("probe/"):
        return
