"""Stage 2: from an instance to its decision and deliveries. Knows the spool and inference, no network."""

from router.classify.classifier import Classifier

__all__ = ["Classifier"]
