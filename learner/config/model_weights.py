"""The tensors of a model directory: in which file each is, and whether they are those of its config.json. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from learner.config.model_config import ModelError
from learner.config.model_tensors import EMBEDDING, HEAD, is_left_out, tensor_shapes
from runtime.version_format.safetensors_header import HeaderError, StoredTensor, read_header

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
READABLE = ("F32", "BF16", "F16")
_CHUNK = 1 << 24  # bytes
_CONVERT = "publish or convert to bfloat16 first"


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Finds every tensor of a model directory from the headers of its files, single or sharded with an index.

    Where transformers, an engine and the index would not agree on which file a tensor is in, none of them is followed.

    Raises:
        ModelError: there are no weights, a file is missing or damaged, or the files contradict each other.
    """
    if (directory / "adapter_config.json").is_file():
        raise ModelError(
            f"{directory / 'adapter_config.json'}: the learner loads no adapters: merge it into its base model, and remove "
            "the file"
        )
    file_of = _weight_map(directory / INDEX) if (directory / INDEX).is_file() else {}
    files = sorted(set(file_of.values()))
    if (directory / SINGLE).is_file():
        if set(files) - {SINGLE}:
            name, other = next((name, file) for name, file in file_of.items() if file != SINGLE)
            raise ModelError(
                f"{directory}: {SINGLE} and {INDEX}, which lists {name} in {other}, are two models, and transformers reads "
                "the first: remove the one that is out of date"
            )
        files = [SINGLE]
    if not files:
        raise ModelError(f"{directory}: neither {SINGLE} nor {INDEX}: convert the weights to safetensors")
    found: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in _tensors_of(directory / file).items():
            if name in found:
                raise ModelError(
                    f"{directory}: tensor {name} is in {found[name].file.name} and in {file}: remove the file that is out of "
                    "date"
                )
            found[name] = tensor
    for name, file in file_of.items():
        if name not in found or found[name].file.name != file:
            actual = found[name].file.name if name in found else "no file"
            raise ModelError(
                f"{directory / INDEX}: lists {name} in {file}, and {actual} has it: the index belongs to other files; "
                "copy the model again"
            )
    return found


def check_tensors(directory: Path, config: Mapping[str, Any], stored: Mapping[str, StoredTensor]) -> None:
    """Checks that the stored tensors are those that the model's parameters read, no more and no less.

    Args:
        directory: the model's directory, for messages.
        config: its config.json, checked.
        stored: its tensors.

    Raises:
        ModelError: a tensor is missing, has another shape or a dtype that is not read, or no parameter reads it. The message
            has a line for each kind of fault, with the first tensor that has it.
    """
    expected = tensor_shapes(config)
    unread = [name for name in stored if name not in expected and not _is_harmless(name, config)]
    missing = [name for name in expected if name not in stored]
    both = [name for name in expected if name in stored]
    unreadable = [name for name in both if stored[name].dtype not in READABLE]
    reshaped = [name for name in both if stored[name].shape != expected[name]]
    faults: list[str] = []
    if unreadable:
        faults.append(dtype_fault(stored[unreadable[0]], unreadable[0]) + _and_others(unreadable))
    if unread:
        faults.append(
            f"{stored[unread[0]].file}: tensor {unread[0]} belongs to no parameter of the model that config.json describes: "
            f"it is another model's, or a quantised one's: {_CONVERT}" + _and_others(unread)
        )
    if missing:
        text = f"{directory}: tensor {missing[0]} is missing; does config.json belong to these weights?"
        faults.append(text + _and_others(missing))
    if reshaped:
        faults.append(shape_fault(stored[reshaped[0]], reshaped[0], expected[reshaped[0]]) + _and_others(reshaped))
    if config.get("tie_word_embeddings") and not faults and HEAD in stored:
        faults += _untied(stored[HEAD], stored[EMBEDDING])
    if faults:
        raise ModelError("\n".join(faults))


def dtype_fault(tensor: StoredTensor, name: str) -> str:
    """Sentence that refuses a tensor for its stored dtype."""
    return f"{tensor.file}: tensor {name} is stored as {tensor.dtype}; {', '.join(READABLE)} are read: {_CONVERT}"


def shape_fault(tensor: StoredTensor, name: str, shape: tuple[int, ...]) -> str:
    """Sentence that refuses a tensor because config.json asks for ``shape``."""
    return (
        f"{tensor.file}: tensor {name} has shape {list(tensor.shape)}, but config.json asks for {list(shape)}: does it "
        "belong to these weights?"
    )


def _is_harmless(name: str, config: Mapping[str, Any]) -> bool:
    """Whether a tensor holds nothing of the model that is trained.

    Rotary frequencies that old checkpoints store, a tied output layer, layers that predict further tokens.
    """
    tied = name == HEAD and bool(config.get("tie_word_embeddings"))
    return tied or name.endswith("rotary_emb.inv_freq") or is_left_out(name, config)


def _untied(head: StoredTensor, embedding: StoredTensor) -> Iterator[str]:
    """A sentence if the output layer is stored beside the embedding and is another one: transformers would not tie them."""
    if (head.dtype, head.shape) != (embedding.dtype, embedding.shape) or not _equal_bytes(head, embedding):
        yield (
            f"{head.file}: config.json has tie_word_embeddings = true, but {HEAD} is not equal to {EMBEDDING}: set "
            "tie_word_embeddings to false, or remove the tensor"
        )


def _equal_bytes(one: StoredTensor, other: StoredTensor) -> bool:
    with one.file.open("rb") as first, other.file.open("rb") as second:
        first.seek(one.start)
        second.seek(other.start)
        left = one.stop - one.start
        while left > 0:
            size = min(left, _CHUNK)
            if first.read(size) != second.read(size):
                return False
            left -= size
    return True


def _and_others(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more such tensors)" if len(names) > 1 else ""


def _tensors_of(path: Path) -> dict[str, StoredTensor]:
    try:
        return read_header(path).tensors
    except FileNotFoundError as error:
        raise ModelError(f"{path}: {INDEX} lists it, and it does not exist: copy the model again") from error
    except (OSError, HeaderError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error


def _weight_map(path: Path) -> dict[str, str]:
    try:
        listed = json.loads(path.read_text())["weight_map"]
        usable = isinstance(listed, dict) and listed and all(isinstance(file, str) for file in listed.values())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: no usable weight_map: {error!r}") from error
    if not usable:
        raise ModelError(f"{path}: no usable weight_map: expected an object of tensor names and file names")
    return listed
