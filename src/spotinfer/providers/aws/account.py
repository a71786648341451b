"""What ``check`` tells of an account: who calls, and how many GPU machines it may rent."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

from ...core.errors import ProviderError, UnexpectedAnswer
from ...core.model import Account
from ..together import together
from .calls import Aws
from .failures import G_SPOT_QUOTA, NAME

QUOTAS: Mapping[str, str] = MappingProxyType(
    {
        G_SPOT_QUOTA: "G and VT spot",
        "L-7212CCBC": "P4, P3 and P2 spot",
        "L-DB2E81BA": "G and VT on-demand",
        "L-417A185B": "P on-demand",
    }
)
"""Code at Service Quotas -> which vCPUs it counts. All but the first are from public configurations, not AWS's docs."""


async def describe_account(aws: Aws, region: str, regions: int) -> Account:
    """Raises what the call for the identity raises; a quota that may not be read is a note."""
    identity = await aws.call("sts", region, "get_caller_identity")
    notes = await together([partial(_quota, aws, region, code, what) for code, what in QUOTAS.items()])
    where = f"machines are looked for in {regions} regions"
    return Account(provider=NAME, user=str(identity.get("Arn", "")), notes=(where, *notes))


async def _quota(aws: Aws, region: str, code: str, what: str) -> str:
    try:
        answer = await aws.call(
            "service-quotas", region, "get_service_quota", needs="Quota", ServiceCode="ec2", QuotaCode=code
        )
        value = answer["Quota"]["Value"]
    except UnexpectedAnswer:
        return f"{region}: the quota of {what} vCPUs ({code}) is not told"
    except ProviderError as error:
        return f"{region}: the quota of {what} vCPUs ({code}) could not be read ({error.code})"
    if not value:
        return f"{region}: no {what} machine can be rented: the quota of vCPUs ({code}) is 0; ask for more first"
    return f"{region}: {value:g} {what} vCPUs ({code})"
