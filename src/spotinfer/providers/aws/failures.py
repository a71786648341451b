"""What AWS's error codes mean, as data, and how any failure of boto3 becomes an error of the tree.

Codes: "Error codes for the Amazon EC2 API" (EC2 API reference) and the common errors of the query protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from types import MappingProxyType

from ...core.errors import (
    AuthenticationFailed,
    InsufficientFunds,
    NoCapacity,
    OfferGone,
    Outbid,
    OutcomeUnknown,
    PermissionDenied,
    ProviderError,
    ProviderUnavailable,
    QuotaExceeded,
    RateLimited,
    UnexpectedAnswer,
)
from ..answers import retry_after
from ..redact import Redactor

NAME = "aws"
Kind = type[ProviderError]


class Refused(UnexpectedAnswer):
    """A code whose meaning depends on what was asked: the adapter decides; unhandled it is a bug of ours."""

    def __init__(self, message: str, aws_code: str) -> None:
        super().__init__(message, provider=NAME)
        self.aws_code = aws_code


class Incomplete(Exception):
    """An answer without what it must hold: of a JSON that broke off boto3 makes an empty answer."""


def _table(rows: Mapping[Kind, str]) -> Mapping[str, Kind]:
    return MappingProxyType({code: kind for kind, codes in rows.items() for code in codes.split()})


CODES: Mapping[str, Kind] = _table(
    {
        AuthenticationFailed: "AuthFailure InvalidClientTokenId UnrecognizedClientException SignatureDoesNotMatch "
        "InvalidSignatureException IncompleteSignature MissingAuthenticationToken ExpiredToken ExpiredTokenException "
        "RequestExpired InvalidAccessKeyId InvalidSecurity",
        PermissionDenied: "UnauthorizedOperation AccessDenied AccessDeniedException Blocked OptInRequired "
        "PendingVerification OperationNotPermitted NotAuthorized UnauthorizedException",
        NoCapacity: "InsufficientInstanceCapacity InsufficientHostCapacity InsufficientCapacity UnfulfillableCapacity "
        "InsufficientReservedInstancesCapacity InsufficientAddressCapacity InsufficientFreeAddressesInSubnet "
        "InsufficientVolumeCapacity",
        Outbid: "SpotMaxPriceTooLow",
        OfferGone: "Unsupported UnsupportedHostConfiguration VolumeTypeNotAvailableInZone InvalidAvailabilityZone "
        "InvalidInstanceType",
        QuotaExceeded: "MaxSpotInstanceCountExceeded VcpuLimitExceeded InstanceLimitExceeded VolumeLimitExceeded "
        "MaxIOPSLimitExceeded AddressLimitExceeded SecurityGroupLimitExceeded "
        "MaxSpotFleetRequestCountExceeded MaxFleetCountExceeded NetworkInterfaceLimitExceeded",
        RateLimited: "RequestLimitExceeded Throttling ThrottlingException ThrottledException EC2ThrottledException "
        "RequestThrottled RequestThrottledException TooManyRequestsException SlowDown BandwidthLimitExceeded",
        ProviderUnavailable: "InternalError InternalFailure InternalServerError ServerInternal Unavailable "
        "ServiceUnavailable ServiceUnavailableException RequestTimeout RequestTimeoutException",
    }
)
STATUSES: Mapping[int, Kind] = MappingProxyType(
    {401: AuthenticationFailed, 402: InsufficientFunds, 403: PermissionDenied, 429: RateLimited}
)
"""For answers without a code that we know, such as those of something in between."""
GONE = frozenset({"InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed", "InvalidInstanceID"})
"""The only codes that say that a machine does not exist."""

G_SPOT_QUOTA = "L-3819A6DF"
HINTS: Mapping[str, str] = MappingProxyType(
    {
        "MaxSpotInstanceCountExceeded": "the quota of spot vCPUs is used up; new accounts have 0 for GPU machines. Ask "
        f"for more at Service Quotas, for this region: {G_SPOT_QUOTA} is 'All G and VT Spot Instance Requests', P "
        "types have their own; or rent on-demand",
        "VcpuLimitExceeded": "the quota of on-demand vCPUs of this family is used up; new accounts have few or none "
        "for GPU machines. Ask for more at Service Quotas, for this region; spot has a quota of its own",
        "OptInRequired": "the region or service must be enabled for the account first",
        "PendingVerification": "AWS is still verifying the account; this can take some hours",
        "Blocked": "the account is blocked: only AWS Support can tell why",
        "RequestExpired": "set this computer's clock",
        "ExpiredToken": "sign in again (`aws sso login`, or new temporary keys)",
        "ExpiredTokenException": "sign in again (`aws sso login`, or new temporary keys)",
        "UnauthorizedOperation": "the policy of this user or role must allow the call named above",
    }
)


def translate(error: Exception, what: str, *, spends: bool, hide: Redactor) -> ProviderError:
    """The error of the tree for what boto3 raised. ``spends``: the call rents, so an open outcome must be said."""
    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError

    if isinstance(error, boto.ClientError):
        return _answered(error, what, spends=spends, hide=hide)
    name = type(error).__name__
    if isinstance(error, (boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound)):
        hint = "`aws configure`, AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        return AuthenticationFailed("there are no usable AWS credentials", provider=NAME, hint=hint)
    if isinstance(error, (boto.CredentialRetrievalError, boto.TokenRetrievalError, boto.SSOError)):
        return AuthenticationFailed(
            f"the credentials could not be fetched ({name})", provider=NAME, hint="sign in again: `aws sso login`"
        )
    if never_sent(error):
        return ProviderUnavailable(f"{what} was not sent ({name})", provider=NAME)
    if isinstance(error, (boto.HTTPClientError, ResponseParserError, boto.IncompleteReadError, Incomplete)):
        if spends:
            return OutcomeUnknown(f"the answer to {what} was lost ({name})", provider=NAME)
        return ProviderUnavailable(f"no whole answer to {what} ({name})", provider=NAME)
    # The text of a validation error repeats the parameters, user data included: only its kind is shown.
    return UnexpectedAnswer(f"{what} could not be asked ({name})", provider=NAME)


def never_sent(error: Exception) -> bool:
    """Whether no connection was made, so that nothing can have been rented by this attempt."""
    from botocore import exceptions as boto

    unsent = (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError)
    return isinstance(error, unsent)


def shown_cause(error: Exception) -> Exception | None:
    """What may stand in a traceback: the text of a validation error repeats what was to be sent, user data included,
    and that of a broken or refused answer what was received."""
    from botocore import exceptions as boto

    return error if isinstance(error, boto.HTTPClientError) else None


def _retry_after(response: Mapping[str, Mapping[str, object]]) -> float | None:
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return retry_after(headers, datetime.now(timezone.utc)) if isinstance(headers, Mapping) else None


def _answered(error: Exception, what: str, *, spends: bool, hide: Redactor) -> ProviderError:
    response: Mapping[str, Mapping[str, object]] = getattr(error, "response", {})
    code = str(response.get("Error", {}).get("Code", ""))
    said = hide.text(str(response.get("Error", {}).get("Message", "")), 500)
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    status = status if isinstance(status, int) else 0
    message = f"{what}: {code}: {said}" if said else f"{what}: {code}"
    kind = CODES.get(code) or STATUSES.get(status)
    if kind is None and status >= 500:
        kind = ProviderUnavailable
    if kind is None:
        return Refused(message, code)
    if kind is RateLimited:
        return RateLimited(message, provider=NAME, retry_after=_retry_after(response))
    if kind is ProviderUnavailable and spends:
        kind = OutcomeUnknown  # InternalError says nothing about whether the machine was made
    return kind(message, provider=NAME, hint=HINTS.get(code))
