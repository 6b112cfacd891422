"""`dicom-router rules`: which rules have decided, why they did, and what other rules would do with what came."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli import rule_changes, rule_tables
from router.cli.filters import moment
from router.cli.options import Config, Json, fail, local_time, must_be_file, printable, settings_of, spool_of, wrong
from router.cli.rule_tables import SHORT

if TYPE_CHECKING:
    from router.commands.explain import Explained
    from router.config import Settings
    from router.decide.explain import Answer, ExplainedRule
    from router.decide.replay import Came, Change, Replay

app = typer.Typer(no_args_is_help=True, help="Explain rules, and try others on past images before they apply.")
app.command("list")(rule_tables.list_tables)
app.command("show")(rule_tables.show)
app.command("hits")(rule_tables.hits)
app.command("apply")(rule_changes.apply)
app.command("rollback")(rule_changes.roll_back)
LAST = 5000
MOST = 10_000_000
PROGRESS_EVERY = 1000
Candidate = Annotated[Path, typer.Argument(metavar="CANDIDATE", help="The routing.yaml with the rules to try.")]
Rules = Annotated[Path | None, typer.Option("--rules", help="Ask the rules of this routing.yaml.")]


@app.command()
def replay(
    candidate: Candidate,
    since: Annotated[str, typer.Option(help="Only what was received since then: 2h, 7d, 2026-11-01.")] = "",
    last: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST, help=f"Only the latest instances, so many. Default: {LAST}, or all with --since."
        ),
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show what other rules would have done with what came. Nothing changes, and a node may run."""
    from router.config import load
    from router.decide.replay import replay as replayed

    must_be_file("CANDIDATE", candidate)
    wanted = load(candidate)
    begin = moment("--since", since, time.time())
    with closing(spool_of(config)) as spool:
        came = spool.rules.came(since=begin, last=last or (None if since else LAST))
        found = replayed(wanted.rules, _told(came), wanted.enabled)
    if as_json:
        print(json.dumps(_replay_as_json(found, wanted)))
    else:
        for line in _replay_lines(found):
            print(printable(line))
    if not found.instances:
        fail("nothing was decided in this time", done=0)


def _told(came: Iterator[Came]) -> Iterator[Came]:
    """Say on a terminal how far it is."""
    on_terminal, count = sys.stderr.isatty(), 0
    for count, one in enumerate(came, 1):
        if on_terminal and count % PROGRESS_EVERY == 0:
            print(f"\r{count} instances, back to {local_time(one.instance.received_at)}", end="", file=sys.stderr)
        yield one
    if on_terminal and count >= PROGRESS_EVERY:
        print(file=sys.stderr)


def _replay_as_json(found: Replay, wanted: Settings) -> dict[str, Any]:
    return {
        "table": wanted.rules.digest, "instances": found.instances, "same": found.same, "moved": found.moved,
        "renamed": found.renamed, "unsure": found.unsure, "without_facts": found.without_facts,
        "in_dry_run": found.in_dry_run, "not_kept": dict(found.not_kept), "latest": found.latest,
        "earliest": found.earliest,
        "rules": [
            {"rule": one.rule, "before": one.before, "after": one.after, "shadow": one.shadow} for one in found.rules
        ],
        "changes": [
            {"from": {"rule": one.from_rule, "destinations": list(one.from_destinations)},
             "to": {"rule": one.to_rule, "destinations": list(one.to_destinations)},
             "moves": one.moves, "count": one.count, "examples": list(one.examples)}
            for one in found.changes
        ],
    }  # fmt: skip


def _replay_lines(found: Replay) -> Iterator[str]:
    yield f"{found.instances} instances: {found.moved} would go elsewhere, {found.same + found.renamed} would not"
    if found.unsure:
        names = ", ".join(f"{name} ({count})" for name, count in found.not_kept)
        yield f"{found.unsure} cannot be told: these were not kept when they were decided: {names}"
    if found.without_facts:
        yield f"{found.without_facts} cannot be told: an older version decided them, which kept nothing of the header"
    if found.in_dry_run:
        yield f"{found.in_dry_run} were decided while node.dry_run was on, by otherwise"
    yield ""
    yield f"{'before':>8s} {'after':>8s}  rule"
    for one in found.rules:
        more = f"  (shadow: {one.shadow} would have fired)" if one.shadow else ""
        yield f"{one.before:8d} {one.after:8d}  {one.rule}{more}"
    if any(one.moves for one in found.changes):
        yield ""
        yield "would go elsewhere:"
    for change in found.changes:
        if change.moves:
            yield from _change_lines(change)


def _change_lines(one: Change) -> Iterator[str]:
    yield f"{one.count:8d}  {_places(one.from_destinations)} ({one.from_rule})"
    yield f"{'':8s}  -> {_places(one.to_destinations)} ({one.to_rule})"
    yield f"{'':8s}  for example {' '.join(one.examples)}"


def _places(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "nowhere"


@app.command()
def explain(
    what: Annotated[str, typer.Argument(metavar="ID|FILE", help="An instance's id or its beginning, or a file.")],
    rules: Rules = None,
    calling_ae: Annotated[str, typer.Option(help="With a file: as if this calling AE title had sent it.")] = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show each rule's answer for an instance or a file: what each condition wants, and what was found."""
    from router.commands.explain import explain_instance
    from router.config import load

    settings = settings_of(config)
    if rules is not None:
        must_be_file("--rules", rules)
    candidate = load(rules) if rules is not None else None
    if Path(what).is_file():
        found = _file(Path(what), settings, candidate, calling_ae)
    else:
        with closing(spool_of(config)) as spool:
            found = explain_instance(spool, _whole_id(spool, what), settings, candidate)
    if as_json:
        print(json.dumps(_explained_as_json(found)))
        return
    for line in _explained_lines(found):
        print(printable(line))


def _whole_id(spool: Any, beginning: str) -> str:
    from router.spool.find import Filter

    found = [one.id for one in spool.views.find(Filter(text=beginning), limit=2)]
    if not found:
        fail(f"no file and no instance {printable(beginning)!r}; 'dicom-router find' finds instances")
    if len(found) > 1:
        wrong(f"{printable(beginning)} names several instances; write more of the id")
    return str(found[0])


def _file(path: Path, settings: Settings, candidate: Settings | None, calling_ae: str) -> Explained:
    from router.commands.explain import explain_file
    from router.flow import Caller
    from router.inference import Inference
    from router.node.model_store import opened
    from router.observe.logging import set_up

    set_up("console", "warning")
    serving = opened(settings).serving()
    inference = Inference(replace(settings.model, path=serving))
    inference.start()
    try:
        return explain_file(
            path, inference, candidate or settings, Caller(calling_ae, settings.node.ae_title, "127.0.0.1")
        )
    finally:
        inference.stop(2.0)


def _chances(found: Explained) -> dict[str, float]:
    from router.flow import CLASSES

    prediction = found.seen.prediction
    if prediction is None or len(prediction.probabilities) != len(CLASSES):
        return {}
    return {name: round(p, 6) for name, p in zip(CLASSES, prediction.probabilities, strict=True)}


def _explained_as_json(found: Explained) -> dict[str, Any]:
    from router.decide.decision import places

    prediction, limits, decided = found.seen.prediction, found.limits, found.decided
    would = found.explanation.decision
    return {
        "of": found.of, "table": found.table, "which": found.which, "facts_kept": found.facts_kept,
        "decided": decided and {"rule": decided.rule, "destinations": list(decided.destinations),
                                "follows": list(found.follows), "table": decided.table, "reason": decided.reason},
        "decision": {"rule": would.rule, "destinations": list(places(would)), "reason": would.reason},
        "pixels": found.seen.pixels,
        "class": prediction and prediction.class_name, "top": prediction and prediction.top,
        "probabilities": _chances(found) or None, "thresholds": limits and dict(limits.thresholds),
        "novelty": prediction and prediction.novelty, "novelty_limit": limits and limits.novelty_limit,
        "rules": [_rule_as_json(one) for one in found.explanation.rules],
    }  # fmt: skip


def _rule_as_json(one: ExplainedRule) -> dict[str, Any]:
    return {
        "rule": one.name, "outcome": str(one.outcome), "answer": one.answer, "because": list(one.because),
        "send": list(one.send), "discard": one.discard, "scope": "study" if one.study else "instance",
        "one_of": one.one_of,
        "conditions": [_answer_as_json(a) for a in one.conditions],
    }  # fmt: skip


def _answer_as_json(one: Answer) -> dict[str, Any]:
    said = {"subject": one.subject, "answer": one.answer, "wanted": one.wanted, "found": one.found}
    return said | ({"parts": [_answer_as_json(part) for part in one.parts]} if one.parts else {})


def _explained_lines(found: Explained) -> Iterator[str]:
    from router.decide.decision import places

    would, decided = found.explanation.decision, found.decided
    yield f"{found.of}: {found.which} ({found.table[:SHORT]})"
    if decided is not None and (decided.rule, decided.destinations) != (would.rule, places(would)):
        yield f"was decided: {decided.rule} -> {_places(decided.destinations)}"
    yield f"{'these rules' if decided else 'decision'}: {would.rule} -> {_places(places(would))}"
    if found.follows:
        yield f"with its study: {_places(found.follows)}"
    if not found.facts_kept:
        yield "an older version decided it and kept nothing of the header: conditions on the header are unknown"
    yield ""
    yield from _seen_lines(found)
    for number, one in enumerate(found.explanation.rules, 1):
        yield ""
        goes = (
            f" -> {'one of ' if one.one_of else ''}{_places(one.send)}{', with its study' if one.study else ''}"
            if one.answer
            else ""
        )
        because = f": {', '.join(one.because)}" if one.because else ""
        yield f"{number:3d} {one.outcome:8s} {one.name}{goes}{because}"
        for answer in one.conditions:
            yield from _answer_lines(answer, 1)


def _seen_lines(found: Explained) -> Iterator[str]:
    prediction, limits = found.seen.prediction, found.limits
    if prediction is None:
        yield f"no prediction: pixels {found.seen.pixels}"
        return
    yield f"class {prediction.class_name}" + (f", view {prediction.view}" if prediction.view else "")
    for name, chance in _chances(found).items():
        limit = f"  named from {limits.thresholds[name]:.2f}" if limits and name in limits.thresholds else ""
        yield f"    {name:16s} {chance:.4f}{limit}"
    if limits and limits.novelty_limit is not None:
        yield f"    {'novelty':16s} {prediction.novelty:.4f}  novel beyond {limits.novelty_limit:.4f}"


def _answer_lines(one: Answer, depth: int) -> Iterator[str]:
    said = {True: "true", False: "false", None: "unknown"}[one.answer]
    found = f"; found: {one.found}" if one.found else ""
    about = one.wanted if one.parts else f"{one.subject} {one.wanted}"
    yield f"{'    ' * depth}{said:8s} {about}{found}"
    for part in one.parts:
        yield from _answer_lines(part, depth + 1)
