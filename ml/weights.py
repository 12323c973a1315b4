"""Weights in safetensors files."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import torch as safetensors
from torch import Tensor

Weights = Mapping[str, Tensor]


def to_file(weights: Weights, path: Path) -> str:
    """Write them, and return the hexadecimal SHA-256 of the file."""
    content = safetensors.save({k: v.detach().cpu().contiguous() for k, v in weights.items()})
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def from_file(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Raises ValueError, before a byte is parsed, where they are not those of the SHA-256."""
    content = path.read_bytes()
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{path} is not what was written with the JSON beside it; train again")
    return safetensors.load(content)
