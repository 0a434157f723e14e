"""`leeway export`: writes a published version as a Hugging Face directory that any library loads. No torch."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from learner.cli.operate.merged_file import merged_size, write_merged
from learner.cli.operate.opened_version import opened_version
from learner.cli.run.evaluations import best, read_evaluations
from learner.cli.run.run_directory import RunDirectory, RunError
from learner.cli.run.run_file import RunFile
from learner.publish.catalog import CatalogError, read_manifest
from learner.publish.manifest_writer import COMPANIONS
from learner.publish.reader import VersionReader, wrong_base, wrong_files
from learner.storage.digests import make_durable
from runtime.version_format.conversion import DTYPES
from runtime.version_format.names import MANIFEST, version_name, versions_on_disk

_INDEX = "model.safetensors.index.json"
# What a tokenizer or a model of one's own may need and versions do not contain: taken from the model that the run began with.
_FROM_MODEL = ("tokenizer.model", "added_tokens.json", "vocab.txt", "*.py", "preprocessor_config.json")


@dataclass(frozen=True)
class Exported:
    """A version that was exported.

    Attributes:
        version: its number.
        step: optimizer steps that its weights have been trained for.
        chain: the versions that it was built from: a full one, then deltas, itself last.
        dtype: "float32" or "bfloat16", the dtype of the weights that were written.
        directory: where to.
        files: names of the files, sorted.
        size: bytes of them all.
    """

    version: int
    step: int
    chain: list[int]
    dtype: str
    directory: Path
    files: list[str]
    size: int


def export(run: RunDirectory, choice: str, directory: Path, dtype: str | None = None) -> Exported:
    """Writes a version's directory: merged weights, configuration, tokenizer, chat template. All of it, or nothing.

    Args:
        run: the run.
        choice: a version's number, "last" (the newest on disk), or "best" (by the run's evaluations).
        directory: where to; it must not exist, or be empty.
        dtype: "float32" or "bfloat16"; None: as published.

    Raises:
        RunError: there is no such version, the directory is not empty, or its disk has too little room.
        CatalogError: the version, or one that it is a delta of, is damaged.
        SettingsError: run.json is damaged.
        OSError: a file cannot be read or written.
    """
    if dtype is not None and dtype not in DTYPES:
        raise RunError(f"--dtype {dtype!r}: expected {' or '.join(DTYPES)}")
    version = chosen_version(run, choice)
    target = directory.expanduser().resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RunError(f"{directory}: exists and is not an empty directory; name another one")
    try:
        return _export(run, version, target, dtype)
    except FileNotFoundError as error:
        if (run.weights / version_name(version) / MANIFEST).exists():
            raise
        raise RunError(
            f"version {version} was removed while it was exported: keep it with `leeway policy pin {run.shown} VERSION` first"
        ) from error


def chosen_version(run: RunDirectory, choice: str) -> int:
    """The version that ``choice`` names. Raises RunError: it names none, or one that is not on disk; SettingsError."""
    on_disk = versions_on_disk(run.weights)
    if not on_disk:
        raise RunError(f"{run.shown}: no version was published yet")
    if choice == "last":
        return on_disk[-1]
    if choice == "best":
        top = best(read_evaluations(run.metrics), RunFile.read(run.root).best_metric)
        if top is None:
            raise RunError(f"--version best: {run.shown} has no evaluations; use --version last, or a number")
        version = top[0].version
    elif choice.isdecimal():
        version = int(choice)
    else:
        raise RunError(f"--version {choice!r}: expected best, last or the number of a version")
    if version not in on_disk:
        shown = ", ".join(map(str, on_disk[-8:]))
        raise RunError(
            f"version {version} is not on disk: retention has removed it, or it never was; there are {shown}"
        )
    return version


def _export(run: RunDirectory, version: int, target: Path, dtype: str | None) -> Exported:
    reader = _verified(run, version)
    written = dtype or reader.manifest.dtype
    digests = {file.name: file.digest for file in (*reader.manifest.files, *reader.manifest.results)}
    model = RunFile.read(run.root).model_directory()
    _check_room(target, sum(merged_size(header, written) for header in reader.files().values()))
    with _all_or_nothing(target) as partial:
        full = run.weights / version_name(reader.chain[0])
        _copy_companions(full if reader.base is None else None, model, partial)
        for name in reader.files():
            write_merged(reader, name, partial / name, written, digests.get(name))
        _tell_dtype(partial / "config.json", written)
        if written != reader.manifest.dtype:
            _tell_size(partial)
        files = sorted(path.name for path in partial.iterdir())
        size = sum((partial / name).stat().st_size for name in files)
        make_durable([*(partial / name for name in files), partial])
    return Exported(version, reader.manifest.step, reader.chain, written, target, files, size)


def _verified(run: RunDirectory, version: int) -> VersionReader:
    """Opens a version all of whose files, and of those that it is built on, are what was published."""
    reader = opened_version(run, version)
    manifests = [read_manifest(run.weights, one) for one in reader.chain]
    faults = [f"version {one.version}: {fault}" for one in manifests for fault in wrong_files(run.weights, one)]
    if (problem := wrong_base(reader)) is not None:
        faults.append(f"version {version}: {problem}")
    if faults:
        raise CatalogError(f"damaged, not exported: {'; '.join(faults)}")
    return reader


def _check_room(target: Path, size: int) -> None:
    existing = next(path for path in (target, *target.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if size > free:
        raise RunError(f"{target}: {size:,} bytes are needed, and its disk has {free:,} left")


@contextmanager
def _all_or_nothing(target: Path) -> Iterator[Path]:
    """Gives a directory beside ``target`` that becomes it when the block ends, and is removed when the block fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    partial.mkdir()
    try:
        yield partial
        partial.rename(target)  # replaces an empty directory; fails if somebody has put something into it
        make_durable([target.parent])
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _copy_companions(full: Path | None, model: Path, target: Path) -> None:
    """Copies what is no tensor: from the full version, if there is one, and from the run's initial model what it has not."""
    for path in full.iterdir() if full is not None else ():
        if path.name != MANIFEST and path.suffix != ".safetensors":
            shutil.copyfile(path, target / path.name)
    for pattern in _FROM_MODEL if full is not None else (*_FROM_MODEL, *COMPANIONS, _INDEX):
        for path in model.glob(pattern):
            if not (target / path.name).exists():
                shutil.copyfile(path, target / path.name)


def _tell_dtype(config: Path, dtype: str) -> None:
    """Writes the weights' dtype into config.json, which libraries convert to when they load: published ones may differ."""
    values = json.loads(config.read_text())
    keys = [key for key in ("dtype", "torch_dtype") if key in values] or ["torch_dtype"]
    if all(values.get(key) == dtype for key in keys):
        return
    config.write_text(json.dumps(values | dict.fromkeys(keys, dtype), indent=2) + "\n")


def _tell_size(directory: Path) -> None:
    """Corrects the size of all tensors in the index, where it has one, after they were converted."""
    path = directory / _INDEX
    values = json.loads(path.read_text()) if path.is_file() else {}
    if "total_size" in values.get("metadata", {}):
        values["metadata"]["total_size"] = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
        path.write_text(json.dumps(values, indent=1))
