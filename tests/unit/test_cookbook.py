"""The recipes of docs/cookbook.md do what they say: by the rules alone, and whole, through a node."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pydicom
import pytest

from router.association.negotiation import Proposal, ProposedContext
from router.association.refusing import refusal
from router.commands.classify_files import as_came
from router.config import Settings, load
from router.config.overrides import PREFIX
from router.config.values import duration
from router.decide import decide, header_tags
from router.decide.studies import following
from router.demo.network import Downstream, send
from router.dicom.uids import APPLICATION_CONTEXT, EXPLICIT
from router.flow import Caller, Decision, Instance, Seen
from router.node.node import Node
from router.node.orders import Pause, Resume
from router.spool import DeliveryState, open_spool
from router.spool.keyed import STUDY
from tests.peers import free_port
from tests.unit.cookbook import NOTHING, PAGE, Recipe, Row, card, codes, look, make, moment, of_destination, recipes
from tests.unit.peer import wait_for
from tests.unit.spooling import accept, instance_for, sealed, settings_of, turned_by_hand
from tests.unit.webpeer import WebPeer

RECIPES = recipes(PAGE.read_text())
TOKEN = "a-token"
ALL_STATES = ("open", "done", "buried", "skipped")
every_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda one: f"{one.number}. {one.title}")


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_AI_TOKEN", TOKEN)


def test_there_are_twenty_two_and_the_list_leads_to_each() -> None:
    page = PAGE.read_text()
    assert [recipe.number for recipe in RECIPES] == list(range(1, 23))
    listed, _, _ = page.partition("\n## 1. ")
    rows = [line for line in listed.splitlines() if line.startswith("| ")]
    linked = {int(number): anchor for line in rows for number, anchor in re.findall(r"\[([0-9]+)\]\(#([^)]+)\)", line)}
    anchors = {one.number: re.sub(r"[^\w -]", "", f"{one.number}. {one.title}".lower()) for one in RECIPES}
    assert linked == {number: words.replace(" ", "-") for number, words in anchors.items()}
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) == set(linked.values())
    others = [*PAGE.parent.glob("*.md"), PAGE.parents[1] / "README.md"]
    from_others = {anchor for other in others for anchor in re.findall(r"cookbook\.md#([^)]+)\)", other.read_text())}
    assert from_others
    assert from_others <= set(linked.values())


def test_the_page_names_the_thresholds_of_the_shipped_model() -> None:
    model = card().calibration
    classes = dict(model.thresholds)
    spine, others = classes.pop("spine"), classes.pop("others")
    (rest,) = set(classes.values())
    text = " ".join(PAGE.read_text().split())
    assert (
        f"from {rest:.2f} on, a spine from {spine}, `others` from {others:.2f}, a view from {model.view_threshold:.2f}."
        in text
    )


@dataclass(frozen=True)
class Told:
    """What the rules say of a row."""

    row: Row
    settings: Settings
    instance: Instance
    seen: Seen
    decision: Decision
    follows: frozenset[str]

    @property
    def to(self) -> frozenset[str]:
        """Where the image goes in the end, before one of several is chosen."""
        return frozenset(self.decision.destinations) | self.follows


def tell(recipe: Recipe, folder: Path) -> list[Told]:
    """What the rules say of each row whose sender is not refused."""
    file = recipe.write(folder)
    found: list[Told] = []
    for row in recipe.rows:
        settings = load(file, dict(row.environment))
        if refused(row, settings):
            continue
        path = make(recipe, row, folder)
        seen = replace(look(path, row, header_tags(settings.rules) | {STUDY}), result_of=row.result_of)
        instance = as_came(path, row.caller)
        if row.received:
            instance = replace(instance, received_at=row.received.timestamp())
        decision = decide(settings.rules, instance, seen, enabled=settings.enabled)
        found.append(Told(row, settings, instance, seen, decision, frozenset()))
    leads = following([(one.seen.header[STUDY][0], one.decision) for one in found])  # type: ignore[index]
    return [replace(one, follows=frozenset(lead)) for one, lead in zip(found, leads, strict=True)]


def refused(row: Row, settings: Settings) -> bool:
    titles = f"{row.caller.called_ae:16}{row.caller.calling_ae:16}".encode() + bytes(32)
    asks = Proposal(1, titles, APPLICATION_CONTEXT, (ProposedContext(1, "1.2", (EXPLICIT,)),))
    return refusal(asks, settings.node, row.caller.peer) is not None


@every_recipe
def test_the_table_is_read_without_a_mistake(recipe: Recipe, tmp_path: Path) -> None:
    settings = load(recipe.write(tmp_path), {})
    said = {warning.partition(": ")[2] for warning in settings.warnings}
    assert said <= {"node.accept is left out: every caller is accepted"} | {
        f"destination '{name}' is disabled" for name, to in settings.destinations.items() if not to.enabled
    }


@every_recipe
def test_each_image_goes_where_its_row_says(recipe: Recipe, tmp_path: Path) -> None:
    """And each rule, and each destination, has a row."""
    told = tell(recipe, tmp_path)
    assert [row for row in recipe.rows if not row.refused] == [one.row for one in told]
    for one in told:
        row, decision = one.row, one.decision
        assert (row.image, decision.rule, frozenset(decision.destinations)) == (row.image, row.rule, row.sent)
        assert (row.image, one.follows, decision.one_of) == (row.image, row.follows, row.one_of)
        recorded = ", ".join(name for name, _ in decision.shadow) or NOTHING
        assert (row.image, recorded) == (row.image, row.cells.get("Recorded", NOTHING))
    shadows = [shadow for one in told for shadow in one.decision.shadow]
    rules = {rule.name for one in told for rule in one.settings.rules.rules}
    assert {one.decision.rule for one in told} | {name for name, _ in shadows} == rules | {"otherwise"}
    destinations = told[0].settings.destinations
    reached = {to for one in told for to in one.to} | {to for _, sends in shadows for to in sends}
    assert reached | {to.fallback for to in destinations.values() if to.fallback} == set(destinations)


# -- when


LATER = [one for one in RECIPES if any(row.about("Sent to") for row in one.rows)]


@pytest.mark.parametrize("recipe", LATER, ids=lambda one: f"{one.number}. {one.title}")
def test_it_is_sent_in_the_hours_and_at_the_rate_of_the_destination(recipe: Recipe, tmp_path: Path) -> None:
    told = tell(recipe, tmp_path)
    (name,) = {name for row in recipe.rows for name in row.about("Sent to")}
    to = told[0].settings.destinations[name]
    assert [one.row for one in told if name in one.to] == [row for row in recipe.rows if row.about("Sent to")]
    asked = [one for one in told if name in one.to]
    if to.hours:
        for one in asked:
            assert one.row.received
            zone = one.row.received.tzinfo
            assert isinstance(zone, ZoneInfo)
            at = to.closed_until(one.instance.received_at) or one.instance.received_at
            assert (one.row.image, at) == (one.row.image, moment(one.row.about("Sent to")[name], zone).timestamp())
        return
    after = [float(one.row.about("Sent to")[name].removesuffix(" s")) for one in asked]
    with turned_by_hand() as hands:
        spool = open_spool(settings_of(tmp_path / "spool"))
        for one in asked:
            accept(spool, one.row.image.encode(), f"1.{len(one.row.image)}")
            (claim,) = spool.decisions.claim(1)
            assert spool.decisions.record(claim, one.seen, one.decision, {}).result()
        begun: list[float] = []
        while len(begun) < len(asked):
            begun += [hands.passed] * len(spool.deliveries.claim(name, len(asked), rate=to.limit_rate))
            hands.turn(0.25)
        spool.close()
    assert begun == after


AWAITED = [one for one in RECIPES if "expect_result" in one.text]


@pytest.mark.parametrize("recipe", AWAITED, ids=lambda one: f"{one.number}. {one.title}")
def test_a_missing_result_leads_to_the_fallback_after_its_time(recipe: Recipe, tmp_path: Path) -> None:
    """Each delivery is done at once; what answers it is found by the spool, and not by the page."""
    told = tell(recipe, tmp_path)
    settings, givers = told[0].settings, told[0].settings.results_from
    (head,) = {head for row in recipe.rows for head in row.cells if head.startswith("After ")}
    seconds = duration(head.split()[1])
    with turned_by_hand() as hands, closing(open_spool(settings_of(tmp_path / "spool"))) as spool:
        ids: dict[str, Row] = {}
        for number, one in enumerate(told):
            blob = sealed(spool, one.row.image.encode())
            came = replace(instance_for(blob, f"1.{number}", one.row.caller), sop_class=one.instance.sop_class)
            came = replace(came, received_at=hands.at)
            ids[spool.intake.accept(blob, came).instance_id] = one.row
            (claim,) = spool.decisions.claim(1)
            assert spool.decisions.key
            study = spool.decisions.key.found_by(one.seen.header)["study"]
            found = spool.results.match(came, study, one.seen.references, givers, settings.ae_titles)
            assert (one.row.image, found.names) == (one.row.image, one.row.result_of)
            assert spool.decisions.record(claim, one.seen, one.decision, settings.limits, found=found).result()
            for name, to in settings.destinations.items():
                for owed in spool.deliveries.claim(name, 10):
                    assert spool.deliveries.close(owed, DeliveryState.DONE, expect=to.expect_result).result()
        for turn, is_over in ((seconds - 1, False), (2, True)):
            hands.turn(turn)
            for _ in recipe.rows:
                spool.results.step(settings.expects, settings.limits, givers=givers)
            for which, row in ids.items():
                rows = spool.views.deliveries(instance_id=which, states=ALL_STATES)
                to_all = frozenset(one.destination for one in rows)
                late = set(codes(row.cells[head])) if is_over else set()
                assert (row.image, to_all) == (row.image, row.sent | late)


# -- whole


class Network:
    """In the place of inference: the real pixels and header of a blob, and the prediction of its row."""

    rows: dict[str, Row]
    """By SOP Instance UID."""

    def __init__(self, *_: object) -> None:
        self.is_ready = False

    def start(self) -> None:
        self.is_ready = True

    def stop(self, _seconds: float) -> None:
        self.is_ready = False

    def info(self) -> dict[str, Any]:
        return {}

    def look(self, path: Path, tags: frozenset[int], caller: Caller, slowed: Callable[[], None]) -> Future[Seen]:
        uid = str(pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
        future: Future[Seen] = Future()
        future.set_result(look(path, self.rows[uid], tags))
        return future


@dataclass
class Recording(Downstream):
    """A downstream node that also knows in which order and on which association everything came."""

    came: list[tuple[str, Any]] = field(default_factory=list)

    def _store(self, event: Any) -> int:
        self.came.append((str(event.request.AffectedSOPInstanceUID), event.assoc))
        return super()._store(event)

    def uids(self) -> list[str]:
        return [uid for uid, _ in self.came]


@dataclass
class Cloud:
    """A downstream web server."""

    peer: WebPeer

    def uids(self) -> list[str]:
        assert all(one.headers["authorization"] == f"Bearer {TOKEN}" for one in self.peer.posted)
        return [instance for one in self.peer.posted for instance in one.instances]


def can_be_run(row: Row) -> bool:
    """Its sender is on this machine, and it may come at any time."""
    return row.caller.peer == "127.0.0.1" and row.received is None


def situations() -> Iterator[tuple[Recipe, tuple[Row, ...]]]:
    """The recipes that can be run here, once for each state of their destinations, with the rows in that state."""
    for recipe in RECIPES:
        if all(map(can_be_run, recipe.rows)):
            rows: defaultdict[str, list[Row]] = defaultdict(list)
            for row in recipe.rows:
                rows[row.cells.get("With", NOTHING)].append(row)
            yield from ((recipe, tuple(some)) for some in rows.values())


WHOLE = list(situations())


def test_most_recipes_are_run_whole() -> None:
    assert len({recipe.number for recipe, _ in WHOLE}) > len(RECIPES) / 2


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "rows"), WHOLE, ids=[f"{one.number}. {rows[0].image}" for one, rows in WHOLE])
def test_a_node_does_what_the_rows_say(
    recipe: Recipe, rows: tuple[Row, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image comes by C-STORE. What has an order or an association waits at its destination until all have come."""
    monkeypatch.setattr("router.node.serving_models.Inference", Network)
    file, port = recipe.write(tmp_path), free_port()
    files = {make(recipe, row, tmp_path): row for row in rows}
    uids = {str(pydicom.dcmread(path).SOPInstanceUID): row for path, row in files.items()}
    monkeypatch.setattr(Network, "rows", uids, raising=False)
    held = {name for row in rows for column in ("Order at", "Association with") for name in row.about(column)}
    with ExitStack() as stack:
        plain = load(file, dict(rows[0].environment))
        peers = {name: downstream(name, plain, stack) for name in plain.destinations}
        environment = dict(rows[0].environment) | {
            f"{PREFIX}NODE__ADDRESS": "127.0.0.1", f"{PREFIX}NODE__PORT": str(port),
            f"{PREFIX}WEB__PORT": str(free_port()),
            f"{PREFIX}SPOOL__PATH": str(tmp_path / "spool"), f"{PREFIX}SPOOL__RESERVE": "1 MB",
        }  # fmt: skip
        for name, peer in peers.items():
            environment |= here(name, peer, plain)
        node = Node(load(file, environment))
        stack.callback(node.stop, 5.0)
        node.start()
        for name in held:
            node.carry_out(Pause(name), "a test")
        for path, row in files.items():
            assert send([path], port, called_ae=row.caller.called_ae, calling_ae=row.caller.calling_ae) == {path: 0}
            if not held:  # a result comes when what it answers has been delivered
                wait_for(lambda: all(one.state == "finished" for one in node.spool.views.instances()), 60)
        wait_for(lambda: owed(node) == expected(rows), 60)
        for name in held:
            node.carry_out(Resume(name), "a test")
        wait_for(lambda: all(row.state == "finished" for row in node.spool.views.instances()), 60)
        came = {name: peer.uids() for name, peer in peers.items()}
    for name, arrived in came.items():
        assert len(arrived) == len(set(arrived)), name
    for uid, row in uids.items():
        got = frozenset(name for name, arrived in came.items() if uid in arrived)
        if row.one_of:
            assert len(got) == 1
            assert got <= row.sent
        else:
            assert (row.image, got) == (row.image, row.sent | row.follows)
    for name in held:
        peer = peers[name]
        assert isinstance(peer, Recording)
        check_order(peer, name, uids)
    for study in {row.study for row in rows if row.one_of}:
        together = {name for name, arrived in came.items() for uid in arrived if uids[uid].study == study}
        assert len(together) == 1, study


def downstream(name: str, settings: Settings, stack: ExitStack) -> Recording | Cloud:
    """A peer in the place of a destination."""
    if settings.destinations[name].stow:
        return Cloud(stack.enter_context(WebPeer()))
    peer = Recording(name, settings.destinations[name].ae_title)
    peer.start()
    stack.callback(peer.stop)
    return peer


def here(name: str, peer: Recording | Cloud, settings: Settings) -> dict[str, str]:
    """The variables that lead a destination here, and shorten its waits."""
    if isinstance(peer, Cloud):
        return {of_destination(name, "stow"): peer.peer.url, of_destination(name, "limit_rate"): "1000/s"}
    found = {of_destination(name, "host"): "127.0.0.1", of_destination(name, "port"): str(peer.port)}
    return found | ({of_destination(name, "gather"): "500ms"} if settings.destinations[name].gather else {})


def expected(rows: tuple[Row, ...]) -> tuple[int, int]:
    """How many instances are decided in the end, and how many deliveries there are."""
    return len(rows), sum(1 if row.one_of else len(row.sent | row.follows) for row in rows)


def owed(node: Node) -> tuple[int, int]:
    """The same as it is now."""
    views = node.spool.views
    deliveries = views.deliveries(states=ALL_STATES, limit=1000)
    return sum(row.decided_at is not None for row in views.instances()), len(deliveries)


def check_order(peer: Recording, name: str, uids: dict[str, Row]) -> None:
    """The order of arrivals, and which came together."""
    orders = [uids[uid].about("Order at").get(name) for uid in peer.uids()]
    if any(orders):
        assert orders == [str(place) for place in range(1, len(orders) + 1)]
    named = [(association, uids[uid].about("Association with").get(name)) for uid, association in peer.came]
    if any(letter for _, letter in named):
        assert len({association for association, _ in named}) == len({letter for _, letter in named}) == len(set(named))
