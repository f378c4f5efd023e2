"""JSON documents that end with the sha256 of everything before it, so that any changed bit shows."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from iris_wm.checkpoint.durable import read_file
from iris_wm.checkpoint.errors import DamagedCheckpoint

MAX_BYTES = 2**28
_END = re.compile(rb',\n "sha256": "([0-9a-f]{64})"\n}\n')
_END_BYTES = len(b',\n "sha256": ""\n}\n') + 64


def to_bytes(document: dict[str, Any]) -> bytes:
    """A non-empty JSON object as bytes, with its checksum as the last key."""
    assert document, "nothing to seal"
    assert "sha256" not in document
    head = json.dumps(document, indent=1).encode().removesuffix(b"\n}")
    return head + f',\n "sha256": "{hashlib.sha256(head).hexdigest()}"\n}}\n'.encode()


def from_bytes(data: bytes, source: Path) -> dict[str, Any]:
    """The object back, without the checksum; ``DamagedCheckpoint`` naming ``source`` if a byte differs."""
    head, end = data[:-_END_BYTES], data[-_END_BYTES:]
    match = _END.fullmatch(end)
    if match is None:
        raise DamagedCheckpoint(f"{source}: expected a checksum at its end, the file begins {data[:12]!r}")
    found = hashlib.sha256(head).hexdigest()
    if found != match[1].decode():
        raise DamagedCheckpoint(f"{source}: expected sha256 {match[1].decode()[:12]}, got {found[:12]}")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpoint(f"{source}: not valid JSON: {str(error)[:80]}") from None
    if not isinstance(document, dict):
        raise DamagedCheckpoint(f"{source}: expected a JSON object")
    document.pop("sha256")
    return document


def read(path: Path) -> dict[str, Any]:
    """The object in a file of at most 256 MB."""
    return from_bytes(read_file(path, limit=MAX_BYTES), path)
