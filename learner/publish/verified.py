"""Published versions as the learner itself reads them, full or delta; every file is verified first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from learner.publish.catalog import CatalogError, read_manifest
from learner.publish.reader import VersionReader, wrong_files
from runtime.version_format.names import MANIFEST, version_name


class VerifiedVersions:
    """The versions under ``root``. A version's files are hashed once, when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._verdicts: dict[int, str | None] = {}

    def exists(self, version: int) -> bool:
        """Whether the version's manifest is on disk; its files may be damaged."""
        return (self._root / version_name(version) / MANIFEST).is_file()

    def problem(self, version: int) -> str | None:
        """Why a version, or one that it is a delta of, cannot be read; None when every byte is what was published."""
        if version not in self._verdicts:
            self._verdicts[version] = self._verdict(version)
        return self._verdicts[version]

    def open(self, version: int) -> VersionWeights:
        """Returns the tensors of a verified version. Raises CatalogError when ``problem`` reports one."""
        problem = self.problem(version)
        if problem is not None:
            raise CatalogError(f"version {version}: {problem}")
        return VersionWeights(VersionReader(self._root, version))

    def _verdict(self, version: int) -> str | None:
        try:
            manifests = [read_manifest(self._root, one) for one in VersionReader(self._root, version).chain]
        except CatalogError as error:
            return str(error)
        faults = [fault for manifest in manifests for fault in wrong_files(self._root, manifest)]
        return "; ".join(map(str, faults)) or None


class VersionWeights:
    """The tensors of one version, in the form that learner.megatron.model.convert asks for."""

    def __init__(self, reader: VersionReader) -> None:
        self._reader = reader
        self._names = set(reader.names())
        self._dtype: torch.dtype = getattr(torch, reader.manifest.dtype)

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Reads the tensor ``name`` into host memory, in the dtype it was published in.

        Raises:
            CatalogError: the version has no such tensor, or it does not have as many elements as ``shape``.
        """
        version = self._reader.manifest.version
        if name not in self._names:
            raise CatalogError(f"version {version}: no tensor {name}: published from another model?")
        flat = torch.from_numpy(self._reader.bits(name)).view(self._dtype)
        if flat.numel() != int(np.prod(shape)):
            raise CatalogError(
                f"version {version}: {name} has {flat.numel()} elements, not {list(shape)}: published from another model?"
            )
        return flat.view(shape)
