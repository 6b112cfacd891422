"""What can be seen from outside over HTTP. Shows counts and our own ids, never a patient or study value."""

from router.web.health import View
from router.web.server import WebServer

__all__ = ["View", "WebServer"]
