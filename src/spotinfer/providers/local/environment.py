"""What a machine's process sees of its owner's environment: what programs need, and no key of anybody."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ...core.secret import Secret

NAMES = frozenset(
    [
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "LANG",
        "LANGUAGE",
        "TZ",
        "TMPDIR",
        "LD_LIBRARY_PATH",
        "DYLD_LIBRARY_PATH",
        "VIRTUAL_ENV",
        "CONDA_PREFIX",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "CC",
        "CXX",
        "MKL_NUM_THREADS",
    ]
)
PREFIXES = ("LC_", "XDG_", "CUDA_", "NVIDIA_", "NCCL_", "OMP_", "HF_", "TORCH_", "VLLM_", "GGML_")
SECRETIVE = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|(^|_)(API_?)?KEY", re.IGNORECASE)


def base_environment(owner: Mapping[str, str]) -> dict[str, str]:
    """The part of ``owner`` that a machine may see."""
    return {
        name: value
        for name, value in owner.items()
        if (name.upper() in NAMES or name.upper().startswith(PREFIXES)) and not SECRETIVE.search(name)
    }


def machine_environment(
    owner: Mapping[str, str], extra: Mapping[str, Secret | str], *, key: str, folder: str
) -> dict[str, str]:
    """The whole environment of a machine's process; only here are its secrets revealed.

    ``SPOTINFER_KEY`` marks it and everything that it starts; ``SPOTINFER_DIR`` is the machine's folder.
    """
    revealed = {name: value.reveal() if isinstance(value, Secret) else value for name, value in extra.items()}
    return {**base_environment(owner), **revealed, "SPOTINFER_KEY": key, "SPOTINFER_DIR": folder}
