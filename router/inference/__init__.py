"""The process that owns model and pixel workers, and the node's handle on it: a path in, what was seen out."""

from router.inference.child import InferenceError
from router.inference.handle import Inference
from router.inference.shadow import Shadow

__all__ = ["Inference", "InferenceError", "Shadow"]
