"""Folders of a stored model with the SHA-256 of each file, checked before anything is parsed."""

import hashlib
import json
from pathlib import Path

SEAL = "sha256.json"


def seal(folder: Path) -> None:
    """Note what the files of the folder, and of those in it, hold now."""
    (folder / SEAL).write_text(json.dumps(_hashes(folder), indent=2) + "\n", encoding="utf-8")


def refuse_broken(folder: Path) -> None:
    """Raises ValueError where the files are not those that were sealed."""
    path = folder / SEAL
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); train the model again") from None
    found = _hashes(folder)
    if noted != found:
        noted = noted if isinstance(noted, dict) else {}
        names = noted.keys() | found.keys()
        broken = min(names, key=lambda name: (noted.get(name) == found.get(name), name))
        raise ValueError(f"{folder / broken} is not what was written; train the model again")


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEAL)
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
