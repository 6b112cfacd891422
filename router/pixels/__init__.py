"""From a data set to a picture: everything between the stored bytes and the network's input.

Any transfer syntax, any photometric interpretation, hostile input included: `render` gives a fixed text where there is
no picture. Asked to have limited patience, it raises ExpensiveError before it decodes. No database, no network, no
model. Nothing received is executed, logged or quoted in an error.
"""

from __future__ import annotations

from router.pixels.cost import ExpensiveError
from router.pixels.render import grey_of, render
from router.pixels.samples import decode

__all__ = ["ExpensiveError", "decode", "grey_of", "render"]
