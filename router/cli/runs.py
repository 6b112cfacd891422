"""What answers depend on. A journal goes on only with the same: rows of two runs would look like one answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from router.config import Settings
    from router.config.settings import ModelSettings


def run_of(settings: Settings | None, model: ModelSettings, **options: object) -> dict[str, str]:
    """What the answers depend on. Raises OSError where the model has no card."""
    from importlib.metadata import version

    from router.model.files import shipped_model

    card = ((model.path or shipped_model()) / "card.json").read_bytes()
    run = {
        "program": version("dicom-router"),
        # The card holds the digest of the weights, and the calibration on which the class depends as well.
        "model": hashlib.sha256(card).hexdigest()[:16],
        "model.device": model.device,
        "model.engine": model.engine,
    }
    if settings is not None:
        table = (settings.rules, sorted(settings.enabled), settings.node.dry_run, settings.node.ae_title)
        run["rules"] = hashlib.sha256(json.dumps(plain(table)).encode()).hexdigest()[:16]
    return run | {f"--{name.replace('_', '-')}": str(value) for name, value in options.items()}


def plain(value: Any) -> Any:
    """Frozen settings as JSON, the same in every process: a set has no order of its own."""
    if is_dataclass(value):
        return [type(value).__name__, *(plain(getattr(value, field.name)) for field in fields(value))]
    if isinstance(value, frozenset | set):
        return sorted((plain(one) for one in value), key=json.dumps)
    if isinstance(value, tuple | list | Iterator):
        return [plain(one) for one in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)
