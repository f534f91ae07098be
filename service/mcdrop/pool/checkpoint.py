"""Intermediate results of a ranking in an append-only file.

A record consists of its magic word, the length of its content, the SHA-256 of the content, and the content. The first
record identifies the question, the pool and the bundle; every other record holds the result of a chunk. A record that
was incomplete when the process ended is cut off, and its chunk is computed again.
"""

import hashlib
import io
import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np
import torch

from dropout_core.acquire.need import Arrays
from dropout_core.errors import InvalidInput
from mcdrop.wire.npy import write_npz

_MAGIC = b"mcdrop1\n"
_HEAD = struct.Struct("<8sQ32s")


class Checkpoint:
    """The stored chunks of a ranking, as a context manager. A file without chunks is removed.

    Args:
        path: The file.
        told: Everything that decides the answer, by name.
        resume: Whether to continue an unfinished run.

    Raises:
        InvalidInput: An unfinished run exists and must not be resumed, there is none to resume, or it belongs to
            another question.
    """

    def __init__(self, path: Path, told: Mapping[str, str], *, resume: bool) -> None:
        self._path = path
        self._chunks: dict[int, list[Arrays]] = {}
        self._kept = 0
        if resume and not path.exists():
            raise InvalidInput(f"there is no {path} to resume; leave --resume out.")
        if path.exists() and not resume:
            raise InvalidInput(f"{path} is of a run that did not end; go on with --resume, or remove it.")
        self._file: IO[bytes] = path.open("r+b" if resume else "xb")
        try:
            if resume:
                self._read(told)
            else:
                self._append(json.dumps(told).encode())
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if not self._kept:
            self._path.unlink()

    def of(self, need: int) -> list[Arrays]:
        """Return the stored chunks of a request, in order.

        Args:
            need: Number of the request.

        Returns:
            The arrays of each chunk.
        """
        return self._chunks.pop(need, [])

    def add(self, need: int, arrays: Arrays) -> None:
        """Append the result of the next chunk; it is on the disk when this returns.

        Args:
            need: Number of the request.
            arrays: The arrays of the chunk.
        """
        self._kept += 1
        self._append(write_npz({"need": need, **{f"of {name}": values.numpy() for name, values in arrays.items()}}))

    def _append(self, content: bytes) -> None:
        self._file.write(_HEAD.pack(_MAGIC, len(content), hashlib.sha256(content).digest()) + content)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self, told: Mapping[str, str]) -> None:
        records = _records(self._file)
        end, first = next(records, (0, b""))
        if not end:
            raise InvalidInput(f"{self._path} is no checkpoint of a ranking; remove it, and leave --resume out.")
        before = json.loads(first)
        changed = [name for name in told if before.get(name) != told[name]]
        if changed:
            raise InvalidInput(
                f"{self._path} is of another question: {', '.join(changed)} changed since. Ask as before, or remove it."
            )
        for place, content in records:
            end, self._kept = place, self._kept + 1
            with np.load(io.BytesIO(content), allow_pickle=False) as members:
                arrays = {name[3:]: torch.from_numpy(members[name]) for name in members.files if name != "need"}
                self._chunks.setdefault(int(members["need"]), []).append(arrays)
        self._file.seek(end)
        self._file.truncate()


def _records(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the end and the content of each complete record, up to the first incomplete one."""
    while len(head := file.read(_HEAD.size)) == _HEAD.size:
        magic, length, digest = _HEAD.unpack(head)
        if magic != _MAGIC or length > os.fstat(file.fileno()).st_size:
            return
        content = file.read(length)
        if hashlib.sha256(content).digest() != digest:
            return
        yield file.tell(), content
