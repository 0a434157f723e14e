"""Published versions as the learner itself reads them, full or delta; every file is verified first."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from learner.publish.catalog import CatalogError, read_manifest
from learner.publish.reader import VersionReader, wrong_base, wrong_files
from runtime.version_format.names import MANIFEST, version_name
from runtime.version_format.wide_tensors import dtype_of

_RETRY_S = 60.0  # until a version that the disk did not give is read again: that may take minutes each time


@dataclass(frozen=True)
class _Verdict:
    """Why a version cannot be read, or None, and until when that holds, monotonic seconds."""

    problem: str | None
    until: float = math.inf


class VerifiedVersions:
    """The versions under a directory.

    A version's files are hashed once, when it is first asked for; again, after a minute, if the disk gave an error.

    Args:
        root: the directory.
        model: directory of the model that the run began with, which adapters change; None: as they name it.
    """

    def __init__(self, root: Path, model: Path | None = None) -> None:
        self._root = root
        self._model = model
        self._verdicts: dict[int, _Verdict] = {}
        self._bases: set[str] = set()  # digests of bases that were found right

    def exists(self, version: int) -> bool:
        """Whether the version's manifest is on disk; its files may be damaged."""
        return (self._root / version_name(version) / MANIFEST).is_file()

    def problem(self, version: int) -> str | None:
        """Why a version, or one that it is a delta of, cannot be read; None when every byte is what was published."""
        known = self._verdicts.get(version)
        if known is None or known.until <= time.monotonic():
            known = self._verdicts[version] = self._verdict(version)
        return known.problem

    def may_pass(self, version: int) -> bool:
        """Whether what ``problem`` reported last is an error of the disk, and not that the version is damaged or gone."""
        known = self._verdicts.get(version)
        return known is not None and known.until < math.inf

    def open(self, version: int) -> VersionWeights:
        """Returns the tensors of a verified version. Raises CatalogError when ``problem`` reports one."""
        problem = self.problem(version)
        if problem is not None:
            raise CatalogError(f"version {version}: {problem}")
        return VersionWeights(self._reader(version))

    def _verdict(self, version: int) -> _Verdict:
        try:
            reader = self._reader(version)
            manifests = [read_manifest(self._root, one) for one in reader.chain]
        except CatalogError as error:
            return _Verdict(str(error), _retried() if _is_disk_error(error) else math.inf)
        faults = [fault for manifest in manifests for fault in wrong_files(self._root, manifest)]
        if faults:
            passes = all(fault.kind == "unreadable" for fault in faults)
            return _Verdict("; ".join(map(str, faults)), _retried() if passes else math.inf)
        try:
            return _Verdict(self._wrong_base(reader))
        except OSError as error:
            return _Verdict(f"its base {reader.base} cannot be read now ({error})", _retried())

    def _wrong_base(self, reader: VersionReader) -> str | None:
        """Why the base of an adapter is not the right one. A right base is read once: it is large, and does not change.

        Raises:
            OSError: the disk gave an error.
        """
        base = reader.manifest.adapter.base
        if base not in self._bases:
            if (problem := wrong_base(reader)) is not None:
                return problem
            self._bases.add(base)
        return None

    def _reader(self, version: int) -> VersionReader:
        return VersionReader(self._root, version, self._model)


def _retried() -> float:
    return time.monotonic() + _RETRY_S


def _is_disk_error(error: BaseException) -> bool:
    """Whether an error was caused by a file that is there and that the disk does not give."""
    cause = error.__cause__
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__
    return cause is not None and not isinstance(cause, (FileNotFoundError, NotADirectoryError))


class VersionWeights:
    """The tensors of one version, in the form that learner.megatron.model.convert asks for."""

    def __init__(self, reader: VersionReader) -> None:
        self._reader = reader
        self._names = set(reader.names())
        self._dtype = reader.manifest.dtype

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Reads the tensor ``name`` into host memory, in the dtype it was published in.

        Raises:
            CatalogError: the version has no such tensor, or it does not have as many elements as ``shape``.
        """
        version = self._reader.manifest.version
        if name not in self._names:
            raise CatalogError(f"version {version}: no tensor {name}: published from another model?")
        flat = torch.from_numpy(self._reader.bits(name)).view(getattr(torch, dtype_of(name, self._dtype)))
        if flat.numel() != int(np.prod(shape)):
            raise CatalogError(
                f"version {version}: {name} has {flat.numel()} elements, not {list(shape)}: published from another model?"
            )
        return flat.view(shape)
