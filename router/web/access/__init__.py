"""Who may see the page and act on it.

`protected(app, access)` wraps a Starlette application: every request then has `request.state.person`, and others are
refused. Each endpoint says with `@needs(Role.X)` what it takes. A form carries `csrf_of(request)` in a hidden field
`csrf`, a script sends it as the header `X-CSRF-Token`; `form_of(request)` gives the fields of a form that was posted.
"""

from router.flow import Role
from router.web.access.gate import Access, protected
from router.web.access.people import Person, csrf_of, form_of, needs

__all__ = ["Access", "Person", "Role", "csrf_of", "form_of", "needs", "protected"]
