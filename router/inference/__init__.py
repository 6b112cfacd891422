"""Looks at pixels: it takes the path of a file and returns what was seen. It knows no database, network or rules.

In the node's process:

- `supervisor`: `Inference`, which asks the inference process, restarts it when it dies or hangs, and swaps its model.
- `process`: one inference process as the node sees it. `shadow`: a second model, whose answers are only recorded.
- `copy_workers`: pixel workers without a model, for a node that forwards and does not classify.

In the inference process (`inside`): `lanes` shares the work among pixel workers, `schedule` says which is next,
`fair` takes turns between callers, `worker_handle` asks and kills pixel workers. In a process of its own: `nursery`,
which makes workers as copies of itself; each is a `pixel_worker`. Between them: `framing`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from router.inference.copy_workers import CopyWorkers as CopyWorkers
    from router.inference.process import InferenceError as InferenceError
    from router.inference.shadow import Shadow as Shadow
    from router.inference.supervisor import Inference as Inference

OFFERED = {"CopyWorkers": "copy_workers", "Inference": "supervisor", "InferenceError": "process", "Shadow": "shadow"}
"""What other rooms use, and its module, which is imported when it is asked for. The inference process and the pixel
workers are of this room too, and need nothing of what the node's side needs."""


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in OFFERED:
        raise AttributeError(name)
    return getattr(import_module(f"{__name__}.{OFFERED[name]}"), name)
