"""The page over a million records: its first bytes while twenty senders store, and what visitors cost receiving.

    python -m benchmarks.page --rows 1000000 --rounds 5 --json page.json

One process receives, as in `benchmarks.receive`, and shows the page. Rounds without and with visitors take turns. Each
visitor asks for one page after the other, with a pause of a second. Each page is asked for once before.
"""

from __future__ import annotations

import argparse
import http.client
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Spread, cpu_seconds, percentile, report
from router.config.settings import SignOn, SpoolSettings
from router.page.search import seal
from router.pixels.wrap import wrap_image
from router.spool import open_spool
from tests.peers import DCMTK, free_port, process

SENDERS, EACH = 20, 20
VISITORS, PAUSE = 4, 1.0
SIGN_ON = SignOn("X-Remote-User", (ip_network("127.0.0.1/32"),), "X-Remote-Roles")
VISITOR = {SIGN_ON.header: "visitor", "X-Remote-Roles": "view,images,operate,rules,admin"}
"""Some pages need a user with roles."""
PAGES = (
    "/", "/instances", "/instances?class=uncertain", "/instances?class=spine&to=ai1&state=buried",
    "/instances?find=", "/instances?rule=rule+3&since=7d", "/destinations", "/attention", "/review", "/rules",
    "/devices", "/model", "/record",
)  # fmt: skip
CONFIG = "spool: {path: spool}\ndestinations:\n" + "".join(
    f"  ai{n}: {{ae_title: AI{n}, host: 127.0.0.1, port: {100 + n}}}\n" for n in range(5)
) + "rules:\n" + "".join(
    f"- {{name: rule {n}, when: {{calling_ae: X{n}}}, send: ai0}}\n" for n in range(20)
) + "otherwise: {send: ai0}\n"  # fmt: skip


def fill(folder: Path, rows: int) -> None:
    """Records of two months, by SQL: ids are times, as real ones are. The last minutes are of now."""
    open_spool(SpoolSettings(path=folder, reserve=0)).close()
    span = 60 * 86400.0
    made = (
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}), m AS "
        f"(SELECT i, {time.time() - span} + i * {(span - 1) / rows} AS at, (i * 7919) % 100 AS r FROM n) "
    )
    which = "printf('%016x%016x', CAST(at * 1e9 AS INTEGER), i)"
    shown = (
        "CASE WHEN r < 52 THEN 'adult_chest' WHEN r < 68 THEN 'spine' WHEN r < 80 THEN 'abdominal' "
        "WHEN r < 92 THEN 'pediatric_chest' WHEN r < 97 THEN 'others' ELSE 'uncertain' END"
    )
    with sqlite3.connect(folder / "node.db") as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute(
            "INSERT INTO instance (id, received_at, calling_ae, called_ae, peer, sop_class, sop_instance, "
            'transfer_syntax, "offset", size, digest, state, decided_at, finished_at, pixels, top, class, confidence, '
            f"probabilities, rule, reason, destinations, facts, shadow, model) {made} SELECT {which}, at, "
            "'XRAY_' || (i % 20), 'ROUTER', '10.0.0.' || (i % 20), '1.2.840.10008.5.1.4.1.1.1.1', '1.2.3.9.' || i, "
            f"'1.2.840.10008.1.2.1', 400, 9000000, printf('%032x', i), 'gone', at, at, 'decoded', 'adult_chest', "
            f"{shown}, 0.93, '[0.01,0.93,0.03,0.02,0.01]', 'rule ' || (r % 20), 'because', '[]', '{{}}', '[]', "
            "'m' FROM m"
        )
        connection.execute(
            "INSERT INTO delivery (instance_id, destination, state, owed_since, ready_at, tries, closed_at, reason) "
            f"{made} SELECT {which}, 'ai' || (r % 5), CASE WHEN i % 1000 = 0 THEN 'buried' ELSE 'done' END, at, 0, 1, "
            "at, CASE WHEN i % 1000 = 0 THEN 'refused ' || (r % 7) ELSE '' END FROM m"
        )
        connection.execute(
            f"INSERT INTO event (at, kind, instance_id, detail) {made} SELECT at, 'image seen', {which}, "
            '\'{"who": "a"}\' FROM m WHERE i % 4 = 0'
        )


def serve(port: int, web: int, folder: Path) -> None:
    """Our receiving stage and the page, and nothing else."""
    import logging

    import structlog
    from starlette.applications import Starlette
    from starlette.routing import Mount

    from router.config import Settings, load
    from router.config.settings import WebSettings
    from router.node.orders import Order
    from router.page import Page
    from router.receive import Receiver
    from router.web.access import Access, protected
    from router.web.server import OneRequest, Server, config_of

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    (folder / "routing.yaml").write_text(CONFIG)
    settings = load(folder / "routing.yaml", {})
    settings = replace(settings, node=replace(settings.node, address="127.0.0.1", port=port))
    opened = open_spool(settings.spool)
    Receiver(lambda: settings, opened.intake).start()

    class View:
        def status(self) -> dict[str, Any]:
            return {"room": True}

        def model_report(self) -> dict[str, Any]:
            return {}

    class Node:
        view = View()
        spool = opened

        def settings(self) -> Settings:
            return settings

        def carry_out(self, order: Order, who: str) -> dict[str, Any]:
            raise NotImplementedError

    gate = protected(Page(Node()).app, Access(WebSettings(sign_on=SIGN_ON), opened))
    config = config_of(Starlette(routes=[Mount("/", gate)]), OneRequest, most_at_once=64)
    config.host, config.port = "127.0.0.1", web
    threading.Thread(target=Server(config).run, daemon=True).start()
    signal.sigwait({signal.SIGTERM})


@contextmanager
def node(folder: Path) -> Iterator[tuple[int, int, int]]:
    port, web = free_port(), free_port()
    command = [sys.executable, "-m", "benchmarks.page", "--serve", str(port), str(web), str(folder)]
    with process(command, port, folder / "node.log", seconds=180) as child:
        yield port, web, child.pid


def once(web: int, word: str) -> None:
    """Ask for each page once, so that templates are compiled."""
    for page in PAGES:
        first_byte(web, page, word)


def first_byte(web: int, page: str, word: str) -> float:
    """Milliseconds until the answer begins. `word`: a UID that is looked for, as an address has it."""
    connection = http.client.HTTPConnection("127.0.0.1", web, timeout=20)
    began = time.perf_counter()
    connection.request("GET", page + word * page.endswith("find="), headers=VISITOR)
    answer = connection.getresponse()
    took = 1000 * (time.perf_counter() - began)
    assert answer.status == 200, (page, answer.status)
    answer.read()
    connection.close()
    return took


def visit(web: int, until: threading.Event, took: list[tuple[str, float]], first: int, word: str) -> None:
    """Ask for one page after the other."""
    at = first
    while not until.is_set():
        page = PAGES[at % len(PAGES)]
        took.append((page, first_byte(web, page, word)))
        at += 1
        until.wait(PAUSE)


def store(port: int, groups: list[list[Path]]) -> float:
    """Instances a second, of all senders together."""
    began = time.monotonic()
    with ThreadPoolExecutor(len(groups)) as pool:
        list(pool.map(lambda paths: subprocess.run(
            [DCMTK / "dcmsend", "--no-uid-checks", "--max-pdu", "131072", "127.0.0.1", str(port), *paths],
            check=True, stdout=subprocess.DEVNULL), groups))  # fmt: skip
    return sum(map(len, groups)) / (time.monotonic() - began)


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rates: dict[bool, list[float]] = {False: [], True: []}
    cpu: dict[bool, list[float]] = {False: [], True: []}
    took: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder / "spool", options.rows)
        image = np.random.default_rng(1).integers(0, 4096, (1000, 1000), np.uint16)
        paths = [wrap_image(image, folder / f"{n}.dcm") for n in range(SENDERS * EACH)]
        groups = [paths[n::SENDERS] for n in range(SENDERS)]
        with node(folder) as (port, web, pid):
            store(port, groups)
            word = seal(folder / "spool", "1.2.3.9.500000")
            once(web, word)
            for number in range(options.rounds):
                for visited in (False, True):
                    over = threading.Event()
                    visitors = [
                        threading.Thread(target=visit, args=(web, over, took, 3 * n, word))
                        for n in range(VISITORS if visited else 0)
                    ]
                    for one in visitors:
                        one.start()
                    before = cpu_seconds(pid)
                    rates[visited].append(store(port, groups))
                    cpu[visited].append(1000 * (cpu_seconds(pid) - before) / len(paths))
                    over.set()
                    for one in visitors:
                        one.join()
                    print(f"  round {number + 1} visitors {visited!s:5} {rates[visited][-1]:6.1f}/s", flush=True)
        shutil.rmtree(folder / "spool")
    ratio = [with_them / without for without, with_them in zip(rates[False], rates[True], strict=True)]
    table: dict[str, dict[str, object]] = {
        "without visitors": {"instances_per_s": Spread.of(rates[False]), "cpu_ms": Spread.of(cpu[False])},
        "with visitors": {"instances_per_s": Spread.of(rates[True]), "cpu_ms": Spread.of(cpu[True])},
        "with / without": {"instances_per_s": Spread.of(ratio)},
    }
    for page in ("all pages", *PAGES):
        times = [ms for one, ms in took if page in (one, "all pages")]
        if not times:  # too few rounds for every page to have its turn
            continue
        table[page] = {
            "p50_ms": round(percentile(times, 0.5), 1),
            "p95_ms": round(percentile(times, 0.95), 1),
            "asked": len(times),
        }
    report("page", table, options.json, against="without visitors")


if __name__ == "__main__":
    main()
