"""Tensors of a Hugging Face directory, read one at a time."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from learner.megatron.model.architecture import ModelError

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


class Weights:
    """Safetensors files of a directory, single or sharded with an index. Tensors are read when they are asked for.

    Raises:
        ModelError: there are no safetensors files, or the index is malformed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open: dict[str, safe_open] = {}
        if (directory / _INDEX).is_file():
            try:
                self._file_of: dict[str, str] = json.loads((directory / _INDEX).read_text())["weight_map"]
            except (ValueError, KeyError) as error:
                raise ModelError(f"{directory / _INDEX}: no usable weight_map: {error}") from error
        elif (directory / _SINGLE).is_file():
            self._file_of = dict.fromkeys(self._file(_SINGLE).keys(), _SINGLE)
        else:
            raise ModelError(f"{directory}: neither {_SINGLE} nor {_INDEX}: convert the weights to safetensors")

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Reads the tensor ``name`` into host memory, in its stored dtype.

        Raises:
            ModelError: the tensor or its file is missing, the file is damaged, or the tensor's shape is not ``shape``.
        """
        if name not in self._file_of:
            raise ModelError(f"{self._directory}: tensor {name} is missing; does config.json belong to these weights?")
        file = self._file_of[name]
        try:
            tensor = self._file(file).get_tensor(name)
        except SafetensorError as error:
            raise ModelError(f"{self._directory / file}: tensor {name}: {error}") from error
        if tuple(tensor.shape) != shape:
            raise ModelError(
                f"{self._directory / file}: tensor {name} has shape {list(tensor.shape)}, but config.json asks for "
                f"{list(shape)}: does it belong to these weights?"
            )
        return tensor

    def _file(self, name: str) -> safe_open:
        if name not in self._open:
            try:
                self._open[name] = safe_open(self._directory / name, "pt")
            except (OSError, SafetensorError) as error:
                raise ModelError(f"{self._directory / name}: cannot be read: {error}") from error
        return self._open[name]
