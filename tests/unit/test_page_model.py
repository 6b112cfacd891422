"""Model on the page: the shadow's figures, and the orders: it serves, it ends, the way back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from router.flow import Role
from router.model.files import shipped_model
from router.node.model_store import ModelStore
from router.node.orders import ModelOrder, Order, Promote, RollBack, SetShadow
from router.spool import SHADOW_PREDICTION
from tests.unit.paging import Node, View, client_of, node_in, posted, sure, token

SHADOW, BEFORE = "1" * 16 + "-" + "2" * 8, "3" * 16 + "-" + "4" * 8


@dataclass
class Shadowed(View):
    """Of a node with a shadow and a way back."""

    serving: dict[str, Any] | None = None
    shadow: str = SHADOW
    ready: bool = True

    def model_report(self) -> dict[str, Any]:
        shadow = {"name": self.shadow, "since": 1.0, "who": "ann"} if self.shadow else None
        previous = {"name": BEFORE, "since": 1.0, "who": "ann"}
        return super().model_report() | {
            "serving": self.serving, "previous": previous, "shadow": shadow, "shadow_ready": self.ready
        }  # fmt: skip


@dataclass
class ModelNode(Node):
    """It notes the orders about models, and carries none out."""

    def carry_out(self, order: Order, who: str) -> dict[str, Any]:
        if not isinstance(order, ModelOrder):
            return super().carry_out(order, who)
        self.ordered.append((order, who))
        return {"begun": True}


@pytest.fixture
def node(tmp_path: Path, database: str) -> Iterator[ModelNode]:
    with node_in(tmp_path, database) as one:
        yield ModelNode(one.spool, one.loaded, Shadowed())


def answered(node: Node, served: str, shadow: str, model: str = SHADOW) -> None:
    node.spool.event(SHADOW_PREDICTION, None, served={"class": served}, shadow={"class": shadow, "model": model})


def test_the_shadow_serves_after_a_question_that_says_how_it_did(node: ModelNode) -> None:
    for n in range(3):
        answered(node, "spine", "spine" if n else "others")
    answered(node, "spine", "abdominal", BEFORE)
    with client_of(node, *Role) as client:
        page = client.get("/model").text
        assert "Of the latest 3 answers, 67 % name the same class." in page
        assert "abdominal" not in page.split("Shadow says")[1].split("</table>")[0], "of another shadow"
        asked = posted(client, "/model", "/model/promote")
        assert f"Let {SHADOW} serve?" in asked.text
        assert "It named the same class in 67 % of its latest 3 answers." in asked.text
        assert node.ordered == []
        assert "done=promoted" in sure(client, asked).headers["location"]
    ((order, who),) = node.ordered
    assert isinstance(order, Promote)
    assert (order.model, order.tested) == (SHADOW, "3 answers as shadow, 67 % the same")
    folder = node.spool.settings.path
    kept = ModelStore(folder, None).folder / order.before
    assert (kept / "model.safetensors").read_bytes() == (shipped_model() / "model.safetensors").read_bytes()
    assert who


def test_what_serves_by_a_choice_is_its_own_way_back(node: ModelNode) -> None:
    answered(node, "spine", "spine")
    node.view = Shadowed(serving={"name": BEFORE, "since": 1.0, "who": "ann"})
    with client_of(node, *Role) as client:
        sure(client, posted(client, "/model", "/model/promote"))
    assert [order.before for order, _ in node.ordered if isinstance(order, Promote)] == [BEFORE]


@pytest.mark.parametrize(
    ("view", "said"),
    [(Shadowed(shadow=BEFORE), "shadows no longer"), (Shadowed(ready=False), "has not answered yet")],
)
def test_a_shadow_that_is_not_the_one_shown_does_not_serve(view: Shadowed, said: str, node: ModelNode) -> None:
    answered(node, "spine", "spine")
    with client_of(node, *Role) as client:
        asked = posted(client, "/model", "/model/promote")
        node.view = view
        answer = sure(client, asked)
        assert (answer.status_code, said in answer.text) == (409, True)
    assert node.ordered == []


def test_a_shadow_without_answers_is_not_offered(node: ModelNode) -> None:
    with client_of(node, *Role) as client:
        assert "/model/promote" not in client.get("/model").text
        answer = client.post("/model/promote", data={"csrf": token(client), "model": SHADOW, "sure": "yes"})
        assert answer.status_code == 409
    assert node.ordered == []


def test_the_shadow_ends_and_the_one_before_shadows(node: ModelNode) -> None:
    with client_of(node, *Role) as client:
        sure(client, posted(client, "/model", "/model/shadow"))
        node.view = Shadowed(shadow="")
        sure(client, posted(client, "/model", "/model/shadow"))
        sure(client, posted(client, "/model", "/model/rollback"))
    assert [order for order, _ in node.ordered] == [SetShadow(None, ""), SetShadow(BEFORE, ""), RollBack("")]


def test_who_may_not_change_rules_changes_no_model(node: ModelNode) -> None:
    answered(node, "spine", "spine")
    with client_of(node, Role.VIEW, Role.OPERATE) as client:
        assert "/model/" not in client.get("/model").text
        for order in ("promote", "shadow", "rollback"):
            answer = client.post(f"/model/{order}", data={"csrf": token(client), "model": SHADOW, "sure": "yes"})
            assert answer.status_code == 403, order
    assert node.ordered == []
