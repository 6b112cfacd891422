"""From a data set to a picture: everything between the stored bytes and the network's input.

`render` takes any transfer syntax, any photometric interpretation, and hostile input. If there is no picture, it gives
a fixed text. With limited patience it raises ExpensiveError before it decodes. This room knows no database, no network
and no model. Received values are never executed, logged or quoted in an error.
"""

from __future__ import annotations

from router.pixels.cost import ExpensiveError
from router.pixels.render import grey_of, render
from router.pixels.samples import decode

__all__ = ["ExpensiveError", "decode", "grey_of", "render"]
