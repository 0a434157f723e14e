"""The guard of the patches: the installed libraries pass, any other version or signature is refused."""

from __future__ import annotations

import importlib
import pkgutil
from importlib import metadata

import pytest
import torch

from learner.megatron import patches
from learner.megatron.patches import guard
from learner.megatron.patches.guard import PatchError, require_release, require_signature
from runtime.errors import MISCONFIGURED


def as_loaded(self, state_dict, strict: bool = True) -> None: ...


def test_the_installed_versions_pass():
    require_release("megatron-core")
    require_release("torch")


@pytest.mark.parametrize("installed", ["2.13.0", "2.13.0+cpu", "2.13.0a0+6e5d1f7.nv26.07", "2.11.0+cu130"])
def test_builds_of_the_same_release_pass(monkeypatch, installed):
    monkeypatch.setattr(metadata, "version", lambda package: installed)
    require_release("torch")


@pytest.mark.parametrize(
    ("installed", "release"), [("0.16.1", "0.16.1"), ("0.19.2", "0.19.2"), ("0.19.2+nv", "0.19.2")]
)
def test_both_releases_pass_and_are_told_apart(monkeypatch, installed, release):
    monkeypatch.setattr(metadata, "version", lambda package: installed)
    assert require_release("megatron-core") == release


@pytest.mark.parametrize("installed", ["0.16.0", "0.17.1", "0.19.1", "0.16.10", "nonsense"])
def test_another_version_is_refused(monkeypatch, installed):
    monkeypatch.setattr(metadata, "version", lambda package: installed)
    with pytest.raises(PatchError) as caught:
        require_release("megatron-core")
    message = str(caught.value)
    assert f"megatron-core {installed} is installed" in message
    assert "written for megatron-core 0.16.1 and 0.19.2: install the one that constraints.txt names" in message
    assert caught.value.exit_status == MISCONFIGURED


def test_a_package_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setitem(guard.RELEASES, "no-such-package", ("1.0",))
    with pytest.raises(PatchError, match="no-such-package is not installed"):
        require_release("no-such-package")


def test_annotations_do_not_count():
    require_signature(as_loaded, "(self, state_dict, strict=True)")


@pytest.mark.parametrize(
    "expected",
    [
        "(self, state_dict)",
        "(self, state_dict, strict=False)",
        "(self, state, strict=True)",
        "(state_dict, strict=True)",
    ],
)
def test_another_signature_is_refused(expected):
    with pytest.raises(PatchError) as caught:
        require_signature(as_loaded, expected)
    message = str(caught.value)
    assert "as_loaded(self, state_dict, strict=True)" in message
    assert f"is not what learner/megatron/patches was written for, which is {expected}" in message


def test_a_function_of_a_library_is_named_with_its_package_and_version():
    with pytest.raises(PatchError, match=rf"torch\.nn\..*\.load_state_dict\(self, .*\(torch {torch.__version__[:6]}"):
        require_signature(torch.nn.Module.load_state_dict, "(self)")


def test_every_patch_says_what_it_is_for_and_is_guarded():
    for module in pkgutil.iter_modules(patches.__path__):
        loaded = importlib.import_module(f"{patches.__name__}.{module.name}")
        if loaded is guard:
            continue
        for section in ("What it changes: ", "Why: ", "Written for: ", "Without it: "):
            assert section in (loaded.__doc__ or ""), (module.name, section)
        assert "require_release" in vars(loaded), module.name
