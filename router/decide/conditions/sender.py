"""What a rule can ask of the association, its time, and the SOP class."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Literal

from router.decide.conditions.base import Facts, NoTags
from router.decide.conditions.matchers import Matcher
from router.decide.hours import Hours

CallerField = Literal["calling_ae", "called_ae"]


@dataclass(frozen=True, slots=True)
class FromAe(NoTags):
    """The calling or called AE title of the association."""

    subject: CallerField
    matcher: Matcher

    def holds(self, facts: Facts) -> bool | None:
        caller = facts.instance.caller
        return self.matcher.matches(caller.calling_ae if self.subject == "calling_ae" else caller.called_ae)


@dataclass(frozen=True, slots=True)
class SopClass(NoTags):
    """The SOP Class UID."""

    matcher: Matcher
    subject: str = "sop_class"

    def holds(self, facts: Facts) -> bool | None:
        return self.matcher.matches(facts.instance.sop_class)


@dataclass(frozen=True, slots=True)
class ReceivedAt(NoTags):
    """The time at which the instance was received lies in one of these hours."""

    hours: tuple[Hours, ...]
    subject: str = "time"

    def holds(self, facts: Facts) -> bool | None:
        return any(one.holds(facts.instance.received_at) for one in self.hours)


@dataclass(frozen=True, slots=True)
class PeerIn(NoTags):
    """The peer's address lies in one of these networks; unknown when it is no address."""

    networks: tuple[IPv4Network | IPv6Network, ...]
    subject: str = "peer"

    def holds(self, facts: Facts) -> bool | None:
        try:
            address = ip_address(facts.instance.caller.peer)
        except ValueError:
            return None
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self.networks)
