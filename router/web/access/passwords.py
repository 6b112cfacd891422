"""Passwords: what is a good one, their Argon2 hashes, and checking one."""

from __future__ import annotations

import unicodedata
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from router.errors import RouterError

SHORTEST, LONGEST = 12, 1024
"""Characters."""


class PasswordError(RouterError):
    """This must not be a password."""

    exit_code = 2


@cache
def _hasher() -> PasswordHasher:
    return PasswordHasher()  # Argon2id as RFC 9106 recommends where memory is short: 64 MiB, three passes


@cache
def _nobodys() -> str:
    return hashed("the password of nobody")


def checked(name: str, password: str) -> str:
    """A new password. Raises PasswordError."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise PasswordError(f"a password has {SHORTEST} to {LONGEST} characters; several words are good")
    if name.lower() in password.lower() and len(password) < len(name) + SHORTEST:
        raise PasswordError("the password is little more than the user's name; choose another")
    if len(set(password)) < 5:
        raise PasswordError("the password repeats a few characters; choose another")
    return password


def hashed(password: str) -> str:
    """The Argon2 hash of a password, with its salt and parameters."""
    return _hasher().hash(_bytes(password))


def matches(password: str, kept: str | None) -> bool:
    """Whether a password is the one of which the hash was kept; takes as long where there is none."""
    try:
        return _hasher().verify(kept or _nobodys(), _bytes(password)) and kept is not None
    except (Argon2Error, InvalidHashError):
        return False


def _bytes(password: str) -> bytes:
    """One keyboard's ü is another's u with two dots."""
    return unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
