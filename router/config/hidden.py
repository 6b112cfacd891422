"""Whether one condition plainly follows from another: then a rule below one with the weaker condition is a mistake.

`decide.reach` finds more rules that can never fire; those are warnings. This one says which are plain mistakes.
"""

from __future__ import annotations

from router.decide.conditions import (
    AgeIs,
    AllOf,
    AnyOf,
    ClassIs,
    Comparison,
    Condition,
    Confidence,
    Equal,
    Frames,
    HeaderPart,
    HeaderView,
    PartConfidence,
    PixelsAre,
    Probability,
    Text,
    TopIs,
    ViewIs,
)


def implies(stronger: Condition, weaker: Condition) -> bool:
    """Whether `weaker` is certainly true wherever `stronger` is; False where this cannot be told at a glance."""
    if stronger == weaker:
        return True
    if isinstance(weaker, AllOf):
        return all(implies(stronger, part) for part in weaker.conditions)
    if isinstance(stronger, AnyOf):
        return all(implies(part, weaker) for part in stronger.conditions)
    if isinstance(stronger, AllOf) and any(implies(part, weaker) for part in stronger.conditions):
        return True
    if isinstance(weaker, AnyOf):
        return any(implies(stronger, part) for part in weaker.conditions)
    return _narrower(stronger, weaker)


def _narrower(stronger: Condition, weaker: Condition) -> bool:
    """The same question with fewer answers."""
    match stronger, weaker:
        case (ClassIs(a), ClassIs(b)) | (TopIs(a), TopIs(b)) | (PixelsAre(a), PixelsAre(b)) | (ViewIs(a), ViewIs(b)):
            return a <= b
        case (HeaderPart(a), HeaderPart(b)) | (HeaderView(a), HeaderView(b)):
            return a <= b
        case (Confidence(p), Confidence(q)) | (Frames(p), Frames(q)) | (PartConfidence(p), PartConfidence(q)):
            return _tighter(p, q)
        case Probability(), Probability():
            return stronger.classes == weaker.classes and _tighter(stronger.comparison, weaker.comparison)
        case AgeIs(), AgeIs():
            p, q = Comparison(stronger.operator, stronger.limit), Comparison(weaker.operator, weaker.limit)
            return stronger.unit == weaker.unit and _tighter(p, q)
        case Text(tag, _, Equal(a)), Text(other, _, Equal(b)):
            return tag == other and a <= b
    return False


def _tighter(p: Comparison, q: Comparison) -> bool:
    """Whether every number that passes `p` passes `q`."""
    if p.operator == "==":
        return q.holds(p.limit) is True
    if p.operator[0] != q.operator[0] or p.operator[0] not in "<>":
        return False
    inner, outer = (p.limit, q.limit) if p.operator[0] == "<" else (-p.limit, -q.limit)
    return inner < outer or (inner == outer and len(p.operator) <= len(q.operator))
