"""What a person typed, or a reason that a peer gave, as a word for an address: only the spool's key opens it.

An address lies in browsers' histories and in proxies' logs; an accession number must not. The same text always gives
the same word, so that a page can be linked. The word is a keyed hash of the text (the first TAG bytes), and the text
under a stream of keyed hashes that begins with it (the construction SIV of RFC 5297, with HMAC-SHA256).
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from itertools import count

from router.spool.keyed import Key

TAG = 16
LONGEST = 4096
"""Characters of a word."""


def sealed(key: Key, text: str) -> str:
    """The word for a text: letters, digits, `-` and `_`."""
    content = text.encode("utf-8", "replace")
    tag = _tag(key, content)
    return urlsafe_b64encode(tag + _mixed(key, tag, content)).decode().rstrip("=")


def opened(key: Key, word: str) -> str | None:
    """The text of a word; None if it was not made with this key."""
    if len(word) > LONGEST or not word.isascii():
        return None
    try:
        content = urlsafe_b64decode(word + "=" * (-len(word) % 4))
    except ValueError:
        return None
    tag, text = content[:TAG], _mixed(key, content[:TAG], content[TAG:])
    return text.decode() if len(tag) == TAG and hmac.compare_digest(tag, _tag(key, text)) else None


def _tag(key: Key, content: bytes) -> bytes:
    return hmac.digest(key.secret, b"sealed\0" + content, "sha256")[:TAG]


def _mixed(key: Key, tag: bytes, content: bytes) -> bytes:
    """Twice gives the same again."""
    stream, blocks = b"", count()
    while len(stream) < len(content):
        stream += hmac.digest(key.secret, b"stream\0" + tag + next(blocks).to_bytes(4, "big"), "sha256")
    return bytes(a ^ b for a, b in zip(content, stream, strict=False))
