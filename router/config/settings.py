"""The frozen settings that routing.yaml becomes; every default of the product stands here, once.

Durations are seconds, sizes bytes, rates bytes per second. Paths are absolute: `load` resolves them against
the folder of the file. Nothing here reads a file or knows YAML. A new key: its default here, how it is read in
`sections`, its line in `routing.yaml` (tests hold the three together).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Literal

from router.decide import RuleTable
from router.decide.header_words import Vocabulary
from router.decide.hours import Hours

ROLES = ("receive", "classify", "forward", "web")
"""What a node may do."""
MIB, GB = 1024**2, 1000**3
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


@dataclass(frozen=True, slots=True)
class ServerTls:
    """TLS for receiving: a port of its own beside the plain one; `ca` asks callers for a certificate."""

    certificate: Path
    key: Path
    port: int = 2762
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class ClientTls:
    """TLS towards a destination: `ca` verifies it (the system's roots when None), the pair identifies us."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    verify_host: bool = True


@dataclass(frozen=True, slots=True)
class ReportTo:
    """Where reports of storage commitment go: to `host` on a new association, or (None) back on the caller's own."""

    host: str | None = None
    port: int = 0
    tls: ClientTls | None = None


@dataclass(frozen=True, slots=True)
class Accept:
    """One line of `node.accept`: a calling AE title, a network, or both. What is None is not tested.

    `commitment`: whom it names may ask for storage commitment, and where the report then goes.
    """

    ae_title: str | None = None
    peer: IPv4Network | IPv6Network | None = None
    commitment: ReportTo | None = None


@dataclass(frozen=True, slots=True)
class NodeSettings:
    name: str | None = None
    """What the list of nodes calls it; None: its host, its roles and a number."""
    roles: tuple[str, ...] = ROLES
    """In the order of ROLES."""
    ae_title: str = "ROUTER"
    address: str = "0.0.0.0"  # noqa: S104 - modalities come from outside
    port: int = 11112
    accept: tuple[Accept, ...] | None = None
    tls: ServerTls | None = None
    require_called_ae: bool = False
    dry_run: bool = False
    unknown_sop_classes: bool = False
    associations: int = 200
    associations_per_peer: int = 64
    unspoken_connections: int = 64
    """Sockets that have connected and not yet sent a whole A-ASSOCIATE-RQ."""
    artim: float = 30.0
    idle: float = 120.0
    least_rate: int = 10_000
    """A transfer slower than this on average (after a grace of `artim`) is aborted."""
    instance_limit: int = 4 * GB
    commitment_deadline: float = 24 * HOUR
    """How long an archive may take for its word, and the caller to take ours after it."""
    drain: float = 0.0
    """How long associations that are open when the node is told to end may go on; 0: to the end of a message."""
    log: Literal["console", "json"] = "console"


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """A bucket, and how it is reached. Credentials come from the environment where there is no file with them."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    credentials: Path | None = None
    sse: str | None = None
    """How the server encrypts what it keeps."""
    kms_key: str | None = None
    ca: Path | None = None
    virtual_host: bool = False
    """The bucket is part of the host's name; otherwise of the path."""
    allow_http: bool = False

    @property
    def name(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def below(self, folder: Path) -> ObjectStore:
        """The same with absolute paths."""
        credentials, ca = (one and folder / one for one in (self.credentials, self.ca))
        return replace(self, credentials=credentials, ca=ca)


@dataclass(frozen=True, slots=True)
class SpoolSettings:
    path: Path = Path("spool")
    database: str = field(default="sqlite", repr=False)
    """It may hold a password, so `repr` leaves it out."""
    blobs: ObjectStore | None = None
    """None: the blobs lie in `path`."""
    cache: int = 10 * GB
    """Bytes of blobs that are kept in `path` beside those in an object store."""
    keep: float = 24 * HOUR
    keep_records: float = 365 * DAY
    limit: int = 50 * GB
    reserve: int = 1 * GB
    """Bytes of the file system that stay free: below, new associations are refused."""

    def left(self, used: int, free: int) -> int:
        """Bytes that can still come. The cache beside an object store makes way, so there only `limit` counts."""
        left = self.limit - used
        return max(0, left if self.blobs else min(left, free - self.reserve))


@dataclass(frozen=True, slots=True)
class ModelSettings:
    path: Path | None = None
    """The model's folder; None: the one that came with the package."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    engine: Literal["auto", "torch", "openvino"] = "auto"
    threads: int = 0
    """Threads of the CPU engine; 0: half as many as cores that this process may use."""
    workers: int = 0
    """Pixel workers; 0: as many as cores that this process may use, at most 4. Slow images and native copies have half
    as many each beside them, started on demand."""
    pixel_timeout: float = 20.0
    pixel_memory: int = 2 * GB


Networks = tuple[IPv4Network | IPv6Network, ...]


@dataclass(frozen=True, slots=True)
class WebTls:
    """TLS for the whole web port."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class SignOn:
    """A proxy has authenticated the person, and names them in a header; believed only if it comes from `addresses`.

    `roles_header` names a header with their roles; without it a user of that name must exist, and has its own roles.
    """

    header: str
    addresses: Networks
    roles_header: str | None = None


@dataclass(frozen=True, slots=True)
class WebSettings:
    """`page` None: the page is there where it is safe, which `why_no_page` says."""

    address: str = "127.0.0.1"
    port: int = 8080
    page: bool | None = None
    tls: WebTls | None = None
    behind_proxy: Networks = ()
    sign_on: SignOn | None = None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return self.address == "localhost" or ip_address(self.address).is_loopback

    @property
    def proxies(self) -> Networks:
        """The addresses of proxies that encrypt, and say who asks."""
        return self.behind_proxy + (self.sign_on.addresses if self.sign_on else ())

    @property
    def why_no_page(self) -> str | None:
        """Why the page is off; None: it is on."""
        if self.page is False:
            return "web.page is false"
        if self.is_loopback or self.tls or self.proxies:
            return None
        return f"web.address {self.address} is open to others; the page needs web.tls, web.behind_proxy or 127.0.0.1"


@dataclass(frozen=True, slots=True)
class Quiet:
    """Hours of the day in which nothing is told; minutes since midnight, and `begin` may be later than `end`."""

    begin: int
    end: int
    zone: str | None = None
    """An IANA time zone; None: this machine's."""
    but: tuple[str, ...] = ()
    """Conditions that are told all the same."""


@dataclass(frozen=True, slots=True)
class NotifySettings:
    """What people are told of, and where. A condition that is None is not looked at."""

    to: tuple[str, ...] = field(default=(), repr=False)
    """Addresses. They hold secrets, so `repr` leaves them out."""
    remind: float = 12 * HOUR
    quiet: Quiet | None = None
    buried: int | None = 1
    """So many buried deliveries of one destination."""
    circuit: float | None = 30 * MINUTE
    """A circuit has been open for so long."""
    silent: dict[str, float] = field(default_factory=dict)
    """By calling AE title: nothing was received from it for so long."""
    disk: float | None = 24 * HOUR
    """The spool is full in less than this, at the rate of the last hour."""
    room: int | None = 5 * GB
    """The spool has less room than this."""
    certificate: float | None = 30 * DAY
    inference: float | None = 5 * MINUTE
    """The model has not been ready for so long."""
    disagreement: float | None = None
    """Header and pixels contradict each other in more than this share of a day's images."""
    result_missing: int | None = 1
    """So many deliveries to one destination whose result did not come, lately."""


CONDITIONS = ("buried", "result_missing", "circuit", "silent", "disk", "certificate", "inference", "disagreement")
"""What a notification may be about; `room` is part of `disk`."""


@dataclass(frozen=True, slots=True)
class Secret:
    """Where a secret is: in an environment variable or in a file. It is read when it is used, and not kept here."""

    env: str | None = None
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class HttpProxy:
    """Requests go to an HTTP proxy, which connects to the server (CONNECT for https)."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class HttpAuth:
    """How the node identifies itself to an HTTP server: by a bearer token, by user and password, or by a token that a
    token server gives for client credentials (OAuth 2)."""

    bearer: Secret | None = None
    user: str | None = None
    password: Secret | None = None
    token_url: str | None = None
    client_id: str | None = None
    client_secret: Secret | None = None
    scope: str | None = None
    ca: Path | None = None
    """Verifies the token server; None: as the destination's `tls` says."""


@dataclass(frozen=True, slots=True)
class DestinationSettings:
    """A downstream node. `syntaxes` narrows what is proposed; None: the instance's own, then Explicit/Implicit LE.

    With `stow` it is an HTTP server. Host and port are then those of its address, and `tls` is there if it encrypts.
    Its AE title is only for recognising what it sent itself, and may be empty.
    """

    name: str
    ae_title: str
    host: str
    port: int
    stow: str | None = None
    """The address to which instances are posted (STOW-RS, PS3.18 §10.5); None: they are sent by C-STORE."""
    auth: HttpAuth | None = None
    allow_http: bool = False
    proxy: HttpProxy | None = None
    """For `stow` and the token server of `auth`; None: directly, whatever the environment says."""
    calling_ae_title: str | None = None
    tls: ClientTls | None = None
    enabled: bool = True
    associations: int = 1
    idle: float = 2.0
    echo: bool = True
    syntaxes: tuple[str, ...] | None = None
    limit: int | None = None
    """Open deliveries beyond this are buried at once, visibly."""
    give_up_after: float = 14 * DAY
    connect_timeout: float = 10.0
    response_timeout: float = 60.0
    least_rate: int = 50_000
    gather: float | None = None
    """Deliveries of a study wait until none was made for so long, then go in one association."""
    gather_limit: float = 10 * MINUTE
    """The longest that they wait."""
    hours: tuple[Hours, ...] = ()
    """Nothing is sent outside of these times of the week; empty: at any time."""
    limit_rate: float | None = None
    """The most deliveries in a second, over all associations and nodes."""
    archive: bool = False
    """It is asked for storage commitment on behalf of callers that may ask us."""
    results_from: tuple[str, ...] = ()
    """Calling AE titles from which its results come; empty: its own AE title."""
    expect_result: float | None = None
    """Seconds after a delivery in which a result must come."""
    fallback: str | None = None
    """The destination that gets an instance whose result is missing."""

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return self.stow or f"{self.host}:{self.port}"

    @property
    def call(self) -> str:
        """Where it is and what it is called there, for people."""
        return self.stow or f"{self.ae_title} at {self.host}:{self.port}"

    def closed_until(self, now: float) -> float:
        """When its hours begin again (Unix time); 0: nothing is closed."""
        if not self.hours or any(one.holds(now) for one in self.hours):
            return 0.0
        return min(one.next_begin(now) for one in self.hours)


@dataclass(frozen=True, slots=True)
class Unusable:
    """A file for TLS or with a secret that cannot be used: the setting, and where in which file it stands."""

    setting: str
    file: str
    line: int
    why: str
    fix: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.setting}: {self.why} ({self.fix})"


@dataclass(frozen=True, slots=True)
class ResultsFrom:
    """How results of a destination are recognised: by these calling AE titles.

    `named`: the settings say that it gives results, so whatever comes from it is one. Otherwise only what has the class
    of a result is.
    """

    titles: frozenset[str]
    named: bool


@dataclass(frozen=True, slots=True)
class Settings:
    """One validated routing.yaml, read whole; a reload replaces it whole."""

    file: Path
    node: NodeSettings
    spool: SpoolSettings
    model: ModelSettings
    web: WebSettings
    destinations: dict[str, DestinationSettings]
    rules: RuleTable
    warnings: tuple[str, ...] = field(default=())
    unusable: tuple[Unusable, ...] = field(default=(), compare=False)
    """Files that are there, and cannot be used as what they are for. What they are for fails; the rest works."""
    header_words: Vocabulary | None = None
    """The words that headers are read by."""
    notify: NotifySettings = field(default_factory=NotifySettings)
    text: str = field(default="", repr=False, compare=False)
    """The file as it is written. It may hold a password, so `repr` leaves it out."""
    results_from: Mapping[str, ResultsFrom] = field(default_factory=dict)
    """The destinations that give results."""

    @property
    def enabled(self) -> frozenset[str]:
        """The names of the destinations that are sent to."""
        return frozenset(name for name, to in self.destinations.items() if to.enabled)

    @property
    def archives(self) -> dict[str, DestinationSettings]:
        """The destinations whose word on storage commitment counts."""
        return {name: to for name, to in self.destinations.items() if to.archive and to.enabled}

    @property
    def limits(self) -> dict[str, int | None]:
        """By enabled destination: how many open deliveries it may have."""
        return {name: self.destinations[name].limit for name in self.enabled}

    @property
    def gathers(self) -> dict[str, tuple[float, float]]:
        """By destination that waits for more of a study: the pause, and how long at most."""
        return {name: (to.gather, to.gather_limit) for name, to in self.destinations.items() if to.gather is not None}

    @property
    def ae_titles(self) -> frozenset[str]:
        """Of all destinations."""
        return frozenset(to.ae_title for to in self.destinations.values() if to.ae_title)

    @property
    def expects(self) -> dict[str, tuple[float, str | None]]:
        """By destination that must give results: within how many seconds, and where an instance goes if none comes."""
        each = ((name, to.expect_result, to.fallback) for name, to in self.destinations.items())
        return {name: (seconds, fallback) for name, seconds, fallback in each if seconds is not None}

    def calling_ae(self, destination: DestinationSettings) -> str:
        """What the node calls itself towards a destination."""
        return destination.calling_ae_title or self.node.ae_title
