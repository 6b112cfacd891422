"""Stage 2: from an instance to its decision and deliveries. It knows the spool and inference, and no network."""

from router.classify.classifier import Classifier

__all__ = ["Classifier"]
