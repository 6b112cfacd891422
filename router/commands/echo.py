"""Ask a destination whether it answers: by C-ECHO, or by OPTIONS if it is a web server."""

from __future__ import annotations

from router.config import Settings
from router.config.settings import DestinationSettings


def echo(settings: Settings, destination: DestinationSettings) -> str:
    """Why it does not answer; empty if it does. Bounded by its time limits."""
    from router.association.requestor import AssociationLostError, ConnectError, connect

    if destination.stow is not None:
        from router.forward.stow import trouble

        return trouble(destination)
    try:
        association = connect(destination, settings.calling_ae(destination), (), echo=True)
        status = association.echo()
        association.release()
    except ConnectError as error:
        return error.reason
    except AssociationLostError as error:
        return f"no C-ECHO ({error})"
    return f"C-ECHO answered 0x{status:04X}" if status else ""
