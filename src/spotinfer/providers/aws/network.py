"""Where a machine stands and who may reach it: its subnet, and a security group for our ports."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import anyio

from ...core.errors import ConfigError, OfferGone, ProviderUnavailable, UnexpectedAnswer
from .calls import Aws
from .failures import NAME, Refused
from .wire import OWNER

Caller = Callable[[], Awaitable[str]]
"""Answers the public IPv4 address from which this computer calls."""
CHECK_IP = "https://checkip.amazonaws.com"
ADDRESS_KEPT_S = 60.0
"""So that a launch which tries many offers asks once."""
IN_USE = frozenset({"DependencyViolation", "InvalidGroup.InUse"})
NO_GROUP = frozenset({"InvalidGroup.NotFound", "InvalidGroupId.Malformed"})
DUPLICATE = frozenset({"InvalidGroup.Duplicate", "InvalidPermission.Duplicate"})


async def public_address() -> str:
    """The default way to find the caller's own address: ask AWS at :data:`CHECK_IP`, which answers it as plain text.

    It is wrong where calls to AWS and calls to the machine leave by different ways (a VPN, several uplinks, IPv6):
    then name the network with ``allow_from``. Raises :class:`ProviderUnavailable`.
    """
    import httpx2  # on use: the rest of this adapter does without

    hint = 'say from where the machine may be reached: allow_from="203.0.113.7/32"'
    try:
        with anyio.fail_after(15):
            async with httpx2.AsyncClient(timeout=10) as client:
                answer = await client.get(CHECK_IP)
                answer.raise_for_status()
                return str(ipaddress.IPv4Address(answer.text.strip()))
    except (httpx2.HTTPError, TimeoutError, ValueError) as error:
        raise ProviderUnavailable(
            f"{CHECK_IP} did not tell this computer's address", provider=NAME, hint=hint
        ) from error


def networks(value: object) -> tuple[str, ...]:
    """IPv4 networks that may reach machines, as a user writes them. Raises :class:`ConfigError`."""
    parts = value.split(",") if isinstance(value, str) else value
    try:
        return tuple(str(ipaddress.IPv4Network(str(part).strip())) for part in parts)  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"allow_from of the provider aws must be IPv4 networks, not {value!r}", hint='for example "203.0.113.0/24"'
        ) from error


class Network:
    """``subnets`` are ids to use instead of the default subnet of each zone; ``allow_from`` networks that may reach the
    machines, by default the caller's own address only, which ``caller`` finds."""

    def __init__(
        self, aws: Aws, *, subnets: Sequence[str] = (), allow_from: Sequence[str] = (), caller: Caller = public_address
    ) -> None:
        self._aws, self._subnets, self._allow_from, self._caller = aws, tuple(subnets), tuple(allow_from), caller
        self._known: dict[tuple[str, str], tuple[str, str]] = {}
        self._groups: dict[tuple[str, str, str], str] = {}
        self._unused: dict[str, str] = {}
        self._address: tuple[str, float] | None = None

    async def subnet(self, region: str, zone: str) -> tuple[str, str]:
        """(subnet, its VPC). Raises :class:`OfferGone` for a zone in which the account has none that we may use."""
        known = self._known.get((region, zone))
        if known is not None:
            return known
        chosen = {"Name": "subnet-id", "Values": list(self._subnets)}
        default = {"Name": "default-for-az", "Values": ["true"]}
        filters = [{"Name": "availability-zone", "Values": [zone]}, chosen if self._subnets else default]
        found = await self._aws.pages("ec2", region, "describe_subnets", "Subnets", Filters=filters)
        if not found:
            raise OfferGone(
                f"there is no {'named' if self._subnets else 'default'} subnet in {zone}",
                provider=NAME,
                hint=f"`aws ec2 create-default-subnet --availability-zone {zone}`, or the option subnets=[...]",
            )
        best = max(found, key=lambda item: int(item.get("AvailableIpAddressCount", 0)))
        self._known[region, zone] = (str(best["SubnetId"]), str(best["VpcId"]))
        return self._known[region, zone]

    async def allowed(self) -> tuple[str, ...]:
        """The networks that may reach a machine that is rented now."""
        if self._allow_from:
            return self._allow_from
        now = anyio.current_time()
        if self._address is None or self._address[1] <= now:
            try:
                self._address = (str(ipaddress.IPv4Network(await self._caller())), now + ADDRESS_KEPT_S)
            except ValueError as error:
                raise UnexpectedAnswer("this computer's public address is no IPv4 address", provider=NAME) from error
        return (self._address[0],)

    # --- security groups -------------------------------------------------------------------------------------------

    async def group(self, region: str, vpc: str, owner: str, allowed: Sequence[str], ports: Iterable[int]) -> str:
        """The group of ``owner`` that opens ``ports`` to ``allowed``, made where it is not there yet.

        Machines of one owner that want the same share it, so that a launch which tries many offers makes one group.
        """
        name = group_name(owner, allowed, ports)
        known = self._groups.get((region, vpc, name))
        if known is None:
            rules = _rules(allowed, ports)
            found = await self._find(region, vpc, name)
            if found is None:
                found = await self._make(region, vpc, name, owner)
            if not _opens(found, rules):
                await self._open(region, str(found["GroupId"]), rules)
            known = self._groups[region, vpc, name] = str(found["GroupId"])
        return known

    def forget(self, group: str) -> None:
        """It is not there any more: somebody swept it."""
        self._groups = {place: known for place, known in self._groups.items() if known != group}
        self._unused.pop(group, None)

    def used(self, group: str) -> None:
        """A machine stands behind it now."""
        self._unused.pop(group, None)

    async def sweep(self, region: str, owner: str) -> None:
        """Remove the groups of ``owner`` behind which no machine stands. They cost nothing."""
        mine = [{"Name": f"tag:{OWNER}", "Values": [owner]}]
        for item in await self._aws.pages("ec2", region, "describe_security_groups", "SecurityGroups", Filters=mine):
            await self._remove(region, str(item["GroupId"]))

    async def sweep_unused(self) -> None:
        """Remove what this object made for machines that were never rented."""
        for group, region in list(self._unused.items()):
            await self._remove(region, group)

    async def _remove(self, region: str, group: str) -> None:
        try:
            await self._aws.call("ec2", region, "delete_security_group", GroupId=group)
        except Refused as error:
            if error.aws_code not in IN_USE | NO_GROUP:
                raise
            if error.aws_code in IN_USE:
                return
        self.forget(group)

    async def _find(self, region: str, vpc: str, name: str) -> dict[str, Any] | None:
        filters = [{"Name": "group-name", "Values": [name]}, {"Name": "vpc-id", "Values": [vpc]}]
        found = await self._aws.pages("ec2", region, "describe_security_groups", "SecurityGroups", Filters=filters)
        return dict(found[0]) if found else None

    async def _make(self, region: str, vpc: str, name: str, owner: str) -> dict[str, Any]:
        marks = [{"Key": OWNER, "Value": owner}, {"Key": "Name", "Value": "spotinfer"}]
        try:
            made = await self._aws.call(
                "ec2",
                region,
                "create_security_group",
                needs="GroupId",
                GroupName=name,
                Description="spotinfer: engine and agent ports of rented machines",
                VpcId=vpc,
                TagSpecifications=[{"ResourceType": "security-group", "Tags": marks}],
            )
        except Refused as error:
            found = await self._find(region, vpc, name) if error.aws_code in DUPLICATE else None
            if found is None:
                raise
            return found  # another launch was faster, or our own answer was lost
        self._unused[str(made["GroupId"])] = region
        return made

    async def _open(self, region: str, group: str, rules: list[dict[str, Any]]) -> None:
        try:
            await self._aws.call("ec2", region, "authorize_security_group_ingress", GroupId=group, IpPermissions=rules)
        except Refused as error:
            if error.aws_code not in DUPLICATE:
                raise


def group_name(owner: str, allowed: Sequence[str], ports: Iterable[int]) -> str:
    """Says by its name what it opens, so that it is found again."""
    content = " ".join([owner, *sorted(allowed), *map(str, sorted(set(ports)))])
    return f"spotinfer-{hashlib.sha256(content.encode()).hexdigest()[:20]}"


def _rules(allowed: Sequence[str], ports: Iterable[int]) -> list[dict[str, Any]]:
    ranges = [{"CidrIp": network, "Description": "spotinfer"} for network in allowed]
    return [{"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "IpRanges": ranges} for port in sorted(set(ports))]


def _opens(group: dict[str, Any], rules: list[dict[str, Any]]) -> bool:
    """Whether the rules are there: a launch may have died between making the group and opening it."""
    there = {
        (item.get("FromPort"), network.get("CidrIp"))
        for item in group.get("IpPermissions", [])
        for network in item.get("IpRanges", [])
    }
    return all((rule["FromPort"], network["CidrIp"]) in there for rule in rules for network in rule["IpRanges"])
