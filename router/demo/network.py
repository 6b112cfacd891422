"""The others of the demonstration's network: a modality that sends, and downstream nodes that keep what arrives.

Both are plain pynetdicom, not this product's own association loops: what the node is shown with is not itself.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.filereader import read_file_meta_info
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, _config, build_context, evt
from xxhash import xxh3_128_hexdigest

from router.demo import reactor
from router.dicom.uids import VERIFICATION

LOOPBACK = "127.0.0.1"

reactor.mend()


@dataclass
class Downstream:
    """A downstream node on loopback: every data set that arrives, as its digest, under its SOP Instance UID."""

    name: str
    ae_title: str
    arrived: dict[str, list[str]] = field(default_factory=dict)
    last: float = 0.0
    """When the last one arrived, on the monotonic clock."""
    port: int = 0
    _server: Any = None

    def start(self) -> None:
        entity = AE(self.ae_title)
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(str(context.abstract_syntax), ALL_TRANSFER_SYNTAXES)
        entity.add_supported_context(VERIFICATION)
        handlers: list[Any] = [(evt.EVT_C_STORE, self._store)]
        self._server = entity.start_server((LOOPBACK, 0), block=False, evt_handlers=handlers)
        self.port = self._server.server_address[1]

    def stop(self) -> None:
        self._server.shutdown()

    def _store(self, event: Any) -> int:
        digest = xxh3_128_hexdigest(event.request.DataSet.getvalue())
        self.last = time.monotonic()
        self.arrived.setdefault(str(event.request.AffectedSOPInstanceUID), []).append(digest)
        return 0x0000


@contextmanager
def _whole_files() -> Any:
    """pynetdicom sends a file's bytes as they are only with this global switch."""
    before = _config.STORE_SEND_CHUNKED_DATASET
    _config.STORE_SEND_CHUNKED_DATASET = True
    try:
        yield
    finally:
        _config.STORE_SEND_CHUNKED_DATASET = before


def send(paths: Sequence[Path], port: int, *, called_ae: str, calling_ae: str = "MODALITY") -> dict[Path, int | None]:
    """C-STORE each file as a modality would; the DIMSE status of each, None where no answer came."""
    metas = {path: read_file_meta_info(path) for path in paths}
    wanted = {(str(m.MediaStorageSOPClassUID), str(m.TransferSyntaxUID)) for m in metas.values()}
    entity = AE(calling_ae)
    statuses: dict[Path, int | None] = dict.fromkeys(paths)
    ordered = sorted(wanted)
    for start in range(0, len(ordered), 128):  # an association has no more presentation contexts
        pairs = ordered[start : start + 128]
        contexts = [build_context(sop_class, syntax) for sop_class, syntax in pairs]
        association = entity.associate(LOOPBACK, port, contexts=contexts, ae_title=called_ae)
        if not association.is_established:
            continue
        with _whole_files():
            for path, meta in metas.items():
                if (str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)) in pairs:
                    try:
                        answer = association.send_c_store(path)
                    except ValueError:  # the context was not accepted
                        continue
                    statuses[path] = answer.Status if "Status" in answer else None
        association.release()
    return statuses
