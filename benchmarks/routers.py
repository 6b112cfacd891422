"""The routers that are compared: ours, Orthanc with Lua, DCMTK with a script, and the one everybody writes first."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.peers import DCMTK, ORTHANC, free_port, listening, process, wait_for

LUA = """
function OnStoredInstance(instanceId, tags, metadata, origin)
  Delete(SendToModality(instanceId, 'sink'))
end
"""

NAIVE = '''
"""The router of a first afternoon with pynetdicom: store the data set, send it on from the handler's queue."""
import queue, sys, threading
from io import BytesIO
from pydicom import dcmread
from pynetdicom import AE, AllStoragePresentationContexts, evt, ALL_TRANSFER_SYNTAXES
port, sink = int(sys.argv[1]), int(sys.argv[2])
work = queue.Queue()
def store(event):
    ds = event.dataset
    ds.file_meta = event.file_meta
    work.put(ds)
    return 0x0000
def forward():
    assoc = None
    while True:
        ds = work.get()
        if assoc is None or not assoc.is_established:
            ae = AE("NAIVE")
            ae.add_requested_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID)
            assoc = ae.associate("127.0.0.1", sink)
        assoc.send_c_store(ds)
threading.Thread(target=forward, daemon=True).start()
ae = AE("NAIVE")
for context in AllStoragePresentationContexts:
    ae.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
ae.start_server(("127.0.0.1", port), evt_handlers=[(evt.EVT_C_STORE, store)])
'''


@contextmanager
def ours(
    folder: Path, sink: int, *, engine: str = "auto", threads: int = 0, workers: int = 0, per_peer: int = 64,
    program: Sequence[str] = ("-m", "router"), spool: str = "", to: int = 1,
) -> Iterator[tuple[int, int]]:  # fmt: skip
    """This node, as `dicom-router serve`, durable and classifying; every class goes to the sink.

    `to`: associations to the sink at a time.
    """
    port, web = free_port(), free_port()
    (folder / "routing.yaml").write_text(
        f"node: {{ae_title: ROUTER, address: 127.0.0.1, port: {port}, associations: 300, "
        f"associations_per_peer: {per_peer}}}\n"
        f"web: {{address: 127.0.0.1, port: {web}}}\n"
        f"model: {{engine: {engine}, device: cpu, threads: {threads}, workers: {workers}}}\n"
        f"spool: {{path: spool, keep: 1s{spool}}}\n"
        f"destinations:\n  sink: {{ae_title: SINK, host: 127.0.0.1, port: {sink}, associations: {to}}}\n"
        "rules:\n  - {name: spine, when: {class: spine}, send: sink}\n"
        "otherwise: {send: sink}\n"
    )
    command = [sys.executable, *program, "serve", "--config", folder / "routing.yaml"]
    with process(command, port, folder / "node.log", cwd=folder, seconds=180) as child:
        yield port, child.pid


@contextmanager
def orthanc_lua(folder: Path, sink: int, *, no_delay: bool) -> Iterator[tuple[int, int]]:
    """Orthanc as it comes with the auto-routing script of its book; optionally with DCMTK's TCP_NODELAY switched on."""
    port, web = free_port(), free_port()
    (folder / "route.lua").write_text(LUA)
    (folder / "orthanc.json").write_text(
        json.dumps(
            {
                "Name": "peer",
                "DicomAet": "ORTHANC",
                "DicomPort": port,
                "HttpPort": web,
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False,
                "StorageDirectory": str(folder / "storage"),
                "IndexDirectory": str(folder / "storage"),
                "LuaScripts": [str(folder / "route.lua")],
                "DicomModalities": {"sink": ["SINK", "127.0.0.1", sink]},
                "DicomAlwaysAllowStore": True,
                "UnknownSopClassAccepted": True,
                "Plugins": [],
            }
        )
    )
    environment = ["TCP_NODELAY=1"] if no_delay else ["-u", "TCP_NODELAY"]
    command = ["/usr/bin/env", *environment, ORTHANC, folder / "orthanc.json"]
    with process(command, web, folder / "orthanc.log") as child:
        wait_for(lambda: listening(port), 20, "Orthanc's DICOM port")
        yield port, child.pid


@contextmanager
def dcmtk_script(folder: Path, sink: int) -> Iterator[tuple[int, int]]:
    """storescp that starts dcmsend for each instance."""
    port = free_port()
    (folder / "in").mkdir(parents=True, exist_ok=True)
    command = [
        DCMTK / "storescp", "--bit-preserving", "--accept-all", "--output-directory", folder / "in",
        "--exec-on-reception", f"{DCMTK}/dcmsend --call SINK 127.0.0.1 {sink} {folder}/in/#f", str(port),
    ]  # fmt: skip
    with process(command, port, folder / "storescp.log") as child:
        yield port, child.pid


@contextmanager
def naive(folder: Path, sink: int) -> Iterator[tuple[int, int]]:
    """pynetdicom as its documentation shows it: decode in the handler, a queue in memory, send_c_store."""
    port = free_port()
    (folder / "naive.py").write_text(NAIVE)
    with process([sys.executable, folder / "naive.py", str(port), str(sink)], port, folder / "naive.log") as child:
        yield port, child.pid
