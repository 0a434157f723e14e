"""Versions on disk, as the learner itself reads them: full or delta, verified first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from learner.publish.catalog import MANIFEST, CatalogError, read_manifest, version_name
from learner.publish.reader import VersionReader, wrong_files


class VerifiedVersions:
    """The versions under ``root``. Each file is hashed once, when its version is first asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._verdicts: dict[int, str | None] = {}

    def exists(self, version: int) -> bool:
        """Whether there is such a version; it may be damaged."""
        return (self._root / version_name(version) / MANIFEST).is_file()

    def problem(self, version: int) -> str | None:
        """Why a version, or one that it is a delta of, cannot be read; None when every byte is what was published."""
        if version not in self._verdicts:
            self._verdicts[version] = self._examine(version)
        return self._verdicts[version]

    def open(self, version: int) -> VersionWeights:
        """Raises CatalogError: see ``problem``."""
        problem = self.problem(version)
        if problem is not None:
            raise CatalogError(f"version {version}: {problem}")
        return VersionWeights(VersionReader(self._root, version))

    def _examine(self, version: int) -> str | None:
        try:
            manifests = [read_manifest(self._root, one) for one in VersionReader(self._root, version).chain]
        except CatalogError as error:
            return str(error)
        wrong = [reason for manifest in manifests for reason in wrong_files(self._root, manifest)]
        return "; ".join(wrong) or None


class VersionWeights:
    """A version's tensors, as learner.megatron.model.convert asks for them."""

    def __init__(self, contents: VersionReader) -> None:
        self._contents = contents
        self._names = set(contents.names())
        self._dtype: torch.dtype = getattr(torch, contents.manifest.dtype)

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor ``name``, in host memory and in the dtype it was published in.

        Raises:
            CatalogError: the version has no such tensor, or it is not of that shape.
        """
        version = self._contents.manifest.version
        if name not in self._names:
            raise CatalogError(f"version {version}: no tensor {name}: published from another model?")
        flat = torch.from_numpy(np.array(self._contents.bits(name))).view(self._dtype)  # a file's bytes are read-only
        if flat.numel() != int(np.prod(shape)):
            raise CatalogError(
                f"version {version}: {name} has {flat.numel()} elements, not {list(shape)}: published from another model?"
            )
        return flat.view(shape)
