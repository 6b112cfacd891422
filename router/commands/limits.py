"""The limits from which on a model names a class, found by the weights that answered."""

from __future__ import annotations

from router.config import Settings
from router.model.doubt import Limits, limits_of
from router.model.files import shipped_model


def limits_for(settings: Settings, model: str | None) -> Limits | None:
    """By the digest of the weights; None if that model is gone."""
    kept = sorted((settings.spool.path / "models").glob("*/"))
    folders = [settings.model.path or shipped_model(), shipped_model(), *kept]
    return limits_of(model or "", folders)
