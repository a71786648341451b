"""What is sent to rent a machine: its image, its disk, its network, its marks and how it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ...core.errors import OfferGone, UnexpectedAnswer
from ...core.model import InstanceSpec, OfferKind
from ..cloudinit import compressed_user_data
from . import wire
from .calls import Aws
from .failures import NAME, Refused

GIB = 1 << 30
USER_DATA_LIMIT = 16 << 10
"""Bytes before base64. [U] the figure; it is packed with gzip, which cloud-init unpacks."""
TOKEN_LIMIT = 64
IMAGE_PARAMETERS: Mapping[str, str] = MappingProxyType(
    {
        arch: f"/aws/service/deeplearning/ami/{arch}/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
        for arch in ("x86_64", "arm64")
    }
)
"""Where AWS publishes the newest Deep Learning AMI: driver, Docker and the NVIDIA container toolkit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rental:
    """What an offer of ours says: its id is ``region/zone/type/kind``."""

    region: str
    zone: str
    type: str
    kind: OfferKind
    arch: str

    @classmethod
    def of(cls, spec: InstanceSpec) -> Rental:
        """Raises :class:`OfferGone` for an offer that this adapter did not make."""
        parts = spec.offer.id.split("/")
        if len(parts) != 4 or parts[3] not in (OfferKind.SPOT.value, OfferKind.ON_DEMAND.value):
            raise OfferGone(f"{spec.offer.id!r} is no offer of AWS", provider=NAME)
        region, zone, type, kind = parts
        return cls(region=region, zone=zone, type=type, kind=OfferKind(kind), arch=spec.offer.arch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An AMI, the name of its first disk, and the least size of that in bytes."""

    id: str
    device: str
    disk: int


class Images:
    """Which AMI to boot: ``ami`` where the user named one, else the newest Deep Learning AMI of the region."""

    def __init__(self, aws: Aws, *, ami: str | None = None) -> None:
        self._aws, self._ami = aws, ami
        self._known: dict[tuple[str, str], Image] = {}

    async def image(self, region: str, arch: str) -> Image:
        """Raises :class:`OfferGone` where there is none for this region and architecture."""
        known = self._known.get((region, arch))
        if known is None:
            known = self._known[region, arch] = await self._describe(
                region, self._ami or await self._newest(region, arch)
            )
        return known

    async def _newest(self, region: str, arch: str) -> str:
        try:
            answer = await self._aws.call(
                "ssm", region, "get_parameter", needs="Parameter", Name=IMAGE_PARAMETERS.get(arch, arch)
            )
        except Refused as error:
            if error.aws_code != "ParameterNotFound":
                raise
            raise OfferGone(
                f"AWS publishes no Deep Learning AMI for {arch} in {region}",
                provider=NAME,
                hint='name one: ami="ami-…"',
            ) from error
        return str(answer["Parameter"]["Value"])

    async def _describe(self, region: str, id: str) -> Image:
        try:
            answer = await self._aws.call("ec2", region, "describe_images", needs="Images", ImageIds=[id])
        except Refused as error:
            if not error.aws_code.startswith("InvalidAMIID"):
                raise
            answer = {}
        if not answer.get("Images"):
            raise OfferGone(f"there is no image {id} in {region}", provider=NAME, hint="an AMI belongs to one region")
        image = answer["Images"][0]
        device = image.get("RootDeviceName")
        if not device:
            raise UnexpectedAnswer(f"the image {id} does not name its first disk", provider=NAME)
        sizes = [
            disk.get("Ebs", {}).get("VolumeSize", 0)
            for disk in image.get("BlockDeviceMappings", [])
            if disk.get("DeviceName") == device
        ]
        return Image(id=id, device=str(device), disk=int(max(sizes, default=0)) * GIB)


def run_request(
    spec: InstanceSpec, rental: Rental, *, image: Image, subnet: str, group: str, disk: int
) -> dict[str, Any]:
    """The parameters of ``RunInstances``. The same spec, image and group give the same request, which the ClientToken
    demands."""
    size = max(spec.disk or disk, image.disk)
    root = {"VolumeSize": -(-size // GIB), "VolumeType": "gp3", "DeleteOnTermination": True}
    marked = ["instance", "volume", "network-interface"]
    request: dict[str, Any] = {
        "ImageId": image.id,
        "InstanceType": rental.type,
        "MinCount": 1,
        "MaxCount": 1,
        "ClientToken": spec.key[:TOKEN_LIMIT],
        "UserData": compressed_user_data(spec, limit=USER_DATA_LIMIT),
        # The fuse: whoever shuts the machine down from inside ends it, without any credentials. [U] for spot: to be
        # tried live; documented for all machines whose root is EBS.
        "InstanceInitiatedShutdownBehavior": "terminate",
        # One hop: the agent on the host reads notices there, a container on a network of its own reads nothing.
        "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        "BlockDeviceMappings": [{"DeviceName": image.device, "Ebs": root}],
        "NetworkInterfaces": [
            {
                "DeviceIndex": 0,
                "SubnetId": subnet,
                "Groups": [group],
                "AssociatePublicIpAddress": True,
                "DeleteOnTermination": True,
            }
        ],
    }
    if rental.kind is OfferKind.SPOT:
        # No MaxPrice: AWS advises against it, and the price never exceeds on-demand. One-time, or EC2 would rent it
        # again after we end it; terminate, since a stopped one bills its disk and no GPU type hibernates.
        options = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
        request["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": options}
        marked.append("spot-instances-request")
    request["TagSpecifications"] = [{"ResourceType": kind, "Tags": wire.tags(spec)} for kind in marked]
    return request
