"""Tensors of a Hugging Face directory, read one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from learner.config.model_weights import READABLE, check_tensors, dtype_fault, shape_fault, stored_tensors
from learner.megatron.model.architecture import ModelError


class Weights:
    """Safetensors files of a directory, single or sharded with an index. Tensors are read when they are asked for.

    Raises:
        ModelError: there are no safetensors files, one is missing or damaged, or they contradict their index.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open: dict[Path, safe_open] = {}
        self._stored = stored_tensors(directory)

    def check(self, config: Mapping[str, Any]) -> None:
        """Checks that the files hold the tensors of the model that ``config``, a checked config.json, describes.

        Raises:
            ModelError: a tensor is missing, is not of the shape or of a dtype that is read, or belongs to no parameter.
        """
        check_tensors(self._directory, config, self._stored)

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Reads the tensor ``name`` into host memory, in its stored dtype: float32, bfloat16 or float16.

        Raises:
            ModelError: the tensor is missing, its file is damaged, its dtype is another, or its shape is not ``shape``.
        """
        if name not in self._stored:
            raise ModelError(f"{self._directory}: tensor {name} is missing; does config.json belong to these weights?")
        stored = self._stored[name]
        if stored.dtype not in READABLE:
            raise ModelError(dtype_fault(stored, name))
        if stored.shape != shape:
            raise ModelError(shape_fault(stored, name, shape))
        try:
            return self._file(stored.file).get_tensor(name)
        except SafetensorError as error:
            raise ModelError(f"{stored.file}: tensor {name}: {error}") from error

    def _file(self, path: Path) -> safe_open:
        if path not in self._open:
            try:
                self._open[path] = safe_open(path, "pt")
            except (OSError, SafetensorError) as error:
                raise ModelError(f"{path}: cannot be read: {error}") from error
        return self._open[path]
