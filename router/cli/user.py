"""`dicom-router user`: who may see the page, and what they may do there."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from router.cli.control import change
from router.cli.options import Config, Json, choose, fail, local_time, must_be_file, on_terminal, settings_of, wrong
from router.flow import Role

app = typer.Typer(no_args_is_help=True, help="Users of the page: add, remove, list, change password or roles.")

LONGEST_FILE = 4096
"""Bytes of a file with a password."""

Name = Annotated[str, typer.Argument(metavar="NAME", help="The user.")]
Roles = Annotated[
    list[str] | None,
    typer.Option("--role", help=f"What the user may do: {', '.join(Role)}, or all. Repeat it for several."),
]
PasswordFile = Annotated[
    Path | None, typer.Option("--password-file", help="Read the password from this file instead of asking.")
]


@app.command()
def add(
    name: Name, config: Config = None, role: Roles = None, password_file: PasswordFile = None,
    no_password: Annotated[
        bool, typer.Option("--no-password", help="Only a proxy's sign-on names this user (web.sign_on).")
    ] = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Add a user. Everybody may view; --role adds to it. The password is asked for twice."""
    from router.node.orders import AddUser

    roles = _roles(role or [])
    if no_password and password_file:
        wrong("--no-password and --password-file: use one of them")
    settings = settings_of(config)
    password = None if no_password else _hash(name, password_file)
    change(settings, AddUser(name, password, roles))
    _say(as_json, f"added {name}: {', '.join(roles)}", user=name, roles=roles)


@app.command()
def remove(name: Name, config: Config = None, as_json: Json = False) -> None:
    """Remove a user. Their sessions end at once."""
    from router.node.orders import RemoveUser
    from router.spool import read_spool

    settings = settings_of(config)
    change(settings, RemoveUser(name))
    _say(as_json, f"removed {name}", user=name)
    with closing(read_spool(settings.spool)) as spool:
        is_last = not spool.users.all()
    if is_last and settings.web.is_loopback and not as_json:
        typer.echo("no user is left: every account of this machine may see the page and operate", err=True)


@app.command("list")
def list_(config: Config = None, as_json: Json = False) -> None:
    """List the users, and what each may do."""
    from router.spool import read_spool

    with closing(read_spool(settings_of(config).spool)) as spool:
        rows = spool.users.all()
    for row in rows:
        roles = [role for role in Role if role in row.roles]
        if as_json:
            print(json.dumps({
                "user": row.name, "roles": roles, "has_password": row.has_password, "changed_at": row.changed_at,
            }))  # fmt: skip
        else:
            only = "" if row.has_password else "  (no password: by sign-on only)"
            print(f"{row.name:20s}  {', '.join(roles):40s}  changed {local_time(row.changed_at)}{only}")


@app.command()
def password(name: Name, config: Config = None, password_file: PasswordFile = None, as_json: Json = False) -> None:
    """Give a user a new password. Their sessions end at once."""
    from router.node.orders import SetPassword

    settings = settings_of(config)
    change(settings, SetPassword(name, _hash(name, password_file)))
    _say(as_json, f"{name} has a new password", user=name)


@app.command()
def roles(name: Name, config: Config = None, role: Roles = None, as_json: Json = False) -> None:
    """Replace what a user may do beside view. It is in force at once."""
    from router.node.orders import SetRoles

    if not role:
        wrong(f"{name}: name at least one --role")
    wanted = _roles(role)
    change(settings_of(config), SetRoles(name, wanted))
    _say(as_json, f"{name}: {', '.join(wanted)}", user=name, roles=wanted)


def _roles(words: list[str]) -> tuple[str, ...]:
    for word in words:
        choose("--role", word, (*Role, "all"))
    return tuple(role for role in Role if role is Role.VIEW or role in words or "all" in words)


def _hash(name: str, file: Path | None) -> str:
    """The Argon2 hash of the password in a file, or of one that is asked for."""
    from router.web.access.passwords import checked, hashed

    if file is not None:
        must_be_file("--password-file", file)
        with file.open("rb") as opened:
            data = opened.read(LONGEST_FILE + 1)
        try:
            text = data.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            wrong(f"--password-file {file}: it is not UTF-8")
    elif on_terminal():
        text = typer.prompt("Password", hide_input=True, confirmation_prompt="The same again", err=True)
    else:
        fail("no terminal to ask for the password: use --password-file", 2)
    return hashed(checked(name, text))


def _say(as_json: bool, line: str, **about: object) -> None:
    print(json.dumps({"done": True} | about) if as_json else line)
