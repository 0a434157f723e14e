"""What rank 0 adds to an adapter version once it has written the adapters: PEFT's settings of them, and the manifest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from learner.config import LoraConfig
from learner.config.lora import PROJECTIONS
from learner.publish.manifest_writer import ShardFiles, manifest_entry, write_manifest
from learner.storage.digests import file_digest, make_durable
from leeway.v1 import manifest_pb2
from runtime.version_format.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from runtime.version_format.base_digest import weights_digest
from runtime.version_format.safetensors_header import HeaderError, read_header


class AdapterManifestWriter:
    """Completes the directories of adapter versions on rank 0.

    Args:
        model: Hugging Face directory of the base, which the adapters change.
        lora: rank and scale of the adapters.
    """

    def __init__(self, model: Path, lora: LoraConfig) -> None:
        self._model = model
        self._lora = lora
        self._base: str | None = None  # the digest of the base's weights, once they were read

    def complete(self, directory: Path, manifest: manifest_pb2.Manifest, files: ShardFiles) -> bytes:
        """Writes what is missing of a version and makes it durable. The first call reads the whole base.

        Args:
            directory: the version's directory, still under its temporary name.
            manifest: version, step, epoch and dtype; the other fields are filled in.
            files: what the ranks wrote: rank 0 alone has the adapters.

        Returns:
            The content of manifest.json.

        Raises:
            OSError: something cannot be written, or the base cannot be read.
        """
        if [file.name for file in files.written] != [ADAPTER_WEIGHTS]:
            raise OSError(
                f"{directory}: the ranks wrote {[file.name for file in files.written]}, not {ADAPTER_WEIGHTS}"
            )
        try:
            if self._base is None:
                self._base = weights_digest(self._model)
            names = read_header(directory / ADAPTER_WEIGHTS).tensors
        except HeaderError as error:
            raise OSError(f"{self._model}: the base cannot be read: {error}") from error
        changed = {name.split(".")[-3] for name in names}
        targets = [projection for projection in PROJECTIONS if projection in changed]
        self._write_config(directory / ADAPTER_CONFIG, targets)
        adapter = manifest_pb2.Adapter(rank=self._lora.rank, alpha=self._lora.alpha, targets=targets, base=self._base)
        manifest.adapter.CopyFrom(adapter)
        manifest.config_sha256 = hashlib.sha256((self._model / "config.json").read_bytes()).hexdigest()
        config = manifest_entry(ADAPTER_CONFIG, file_digest(directory / ADAPTER_CONFIG))
        manifest.files.extend([*files.written, config])
        content = write_manifest(directory, manifest)
        make_durable([directory, directory / ADAPTER_CONFIG])
        return content

    def _write_config(self, path: Path, targets: list[str]) -> None:
        alpha = self._lora.alpha
        values = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": str(self._model.resolve()),
            "r": self._lora.rank,
            "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
            "target_modules": targets,
            "bias": "none",
            "lora_dropout": 0.0,
            "fan_in_fan_out": False,
            "init_lora_weights": True,
            "inference_mode": True,
            "modules_to_save": None,
            "use_dora": False,
            "use_rslora": False,
        }
        path.write_text(json.dumps(values, indent=2) + "\n")
