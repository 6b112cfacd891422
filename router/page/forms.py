"""What an address asks for, what a form posts, and where to go afterwards; as text that a database can hold."""

from __future__ import annotations

from starlette.requests import Request

from router.errors import RouterError
from router.spool.sealed import LONGEST
from router.web.access import form_of

LONGEST_VALUE = 300
"""Characters of a value in an address."""
SEALED_NAMES = ("find", "cause")
"""Values that are sealed (`search`): they are long."""


class FormError(RouterError):
    """A form, or an address, that no page gives out; the message is for a person."""

    exit_code = 2

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def asked(request: Request) -> dict[str, str]:
    """What the address asks for, as text that a database can hold."""
    return {
        name: _clean(value)[: LONGEST if name in SEALED_NAMES else LONGEST_VALUE]
        for name, value in request.query_params.items()
    }


def _clean(text: str) -> str:
    """Without NUL, which PostgreSQL does not take, and without halves of characters."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def fields(request: Request) -> dict[str, str]:
    """The fields of the form that was posted, which the gate has found to be genuine."""
    found = {name: _clean(value) for name, value in form_of(request).items() if name != "csrf"}
    request.state.back = found.pop("back", "")
    return found


def field(form: dict[str, str], name: str) -> str:
    """A field that must be there. Raises FormError."""
    if name not in form:
        raise FormError(f"the field {name} is missing")
    return form[name]


def back_of(request: Request) -> str:
    """Where the person was: a path of this site, else the first page."""
    back = str(getattr(request.state, "back", ""))
    is_ours = (
        back.startswith("/") and not back.startswith(("//", "/\\")) and back.isprintable() and len(back) < 2 * LONGEST
    )
    return back if is_ours else "/"
