"""RunPod's JSON, as far as we read it (OpenAPI 3.1, "Frontdoor v2.9.0"). What we do not need is not declared: above all
a pod's ``env``, which RunPod repeats in every answer and which holds the machine's secrets."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from ..wiring import Dollars, Wire


class Port(Wire):
    private: int
    public: int | None = None
    type: str = ""
    ip: str | None = None


class Runtime(Wire):
    ports: list[Port] | None = None


class PodGpu(Wire):
    id: str
    count: int = 1


class Pod(Wire):
    id: str = Field(min_length=1)
    name: str = ""
    status: str
    cost: Dollars | None = None
    gpu: PodGpu | None = None
    cloud: str = ""
    data_center: str | None = Field(default=None, alias="dataCenterId")
    cuda: str | None = Field(default=None, alias="cudaVersion")
    runtime: Runtime | None = None
    created_at: datetime | None = Field(default=None, alias="createdAt")


class Pods(Wire):
    pods: list[Pod]


class Price(Wire):
    """Dollars per hour for ONE GPU."""

    secure: Dollars | None = None
    community: Dollars | None = None


class MaxCount(Wire):
    secure: int = 0
    community: int = 0


class DataCenter(Wire):
    id: str
    availability: str = "NONE"


class Cuda(Wire):
    version: str
    available: bool = False


class Gpu(Wire):
    """``memory`` is in GB as it is marketed; from ``availability`` on it is about the cloud and count asked for."""

    id: str
    name: str
    manufacturer: str = "UNKNOWN"
    memory: int
    secure: bool
    community: bool
    price: Price
    max_count: MaxCount = Field(alias="maxCount")
    availability: str = "NONE"
    data_centers: list[DataCenter] = Field(default=[], alias="dataCenters")
    cuda: list[Cuda] = Field(default=[], alias="cudaVersions")


class Gpus(Wire):
    gpus: list[Gpu]


class Volume(Wire):
    id: str
    data_center: str = Field(alias="dataCenter")


class BillingRecord(Wire):
    pod_id: str = Field(alias="podId")
    start: datetime = Field(alias="startTime")
    end: datetime = Field(alias="endTime")
    total: Dollars = Field(alias="totalAmount")


class Billing(Wire):
    records: list[BillingRecord]


class LogLine(Wire):
    """The ``data:`` of one event of the log stream."""

    line: str = ""
    source: str = ""
    ts: str = ""
