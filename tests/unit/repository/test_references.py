"""What documents and docstrings point to exists: files, modules and what they define, settings."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import PurePosixPath
from posixpath import normpath
from typing import Any, get_args

from pydantic import BaseModel

from learner.cli.run.run_file import RunFile
from learner.config import GatewayConfig, LearnerConfig
from rollout.config import WorkerConfig
from tests.unit.repository.sources import PACKAGES, Module, Repository, Text

_TOP = ("learner", "rollout", "runtime", "tests", "deploy", "docs", "configs", "proto", "requirements")
_SUFFIXES = ("py", "pyi", "md", "toml", "lua", "proto", "json", "jsonl", "yaml", "txt", "html")
# From one of our directories: the whole path. Otherwise a name that ends like a source file: the end of a path.
_PATH = re.compile(
    rf"(?<![\w./:$<>{{-])(?:(?:{'|'.join(_TOP)})/[\w./*-]*[\w/*]|[\w./-]*[\w]\.(?:py|lua|proto|md)\b(?!\())"
)
_LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
_DOTTED = re.compile(r"(?<![\w./-])(?:learner|rollout|runtime|tests)(?:\.[A-Za-z_]\w*)+")

# A path part in capitals stands for any name.
_PLACEHOLDER = re.compile(r"(^|/)[A-Z_]+(/|$)")
# What looks like a file of the repository and is none: (document, reference).
_NOT_FILES = {
    ("README.md", "my_task.py"),  # the reader writes it
    ("docs/agents.md", "my_agent.py"),
    ("README.md", "my_agent.py"),
    ("docs/agents.md", "agent.py"),
    ("AGENTS.md", "learner/a/b.py"),  # any module, and its test
    ("AGENTS.md", "tests/unit/learner/a/test_b.py"),
    ("deploy/README.md", "deploy/leeway-gateway"),  # kubectl's short name of a Deployment
}
_OVERLAY_OF_THE_READER = "deploy/kubernetes/overlays/mine"
# Says what files and names were once called.
_HISTORY = "CHANGELOG.md"


def test_every_path_in_a_document_or_docstring_exists(repository: Repository):
    directories = {str(parent) for path in repository.files for parent in PurePosixPath(path).parents}
    offenders = [
        f"{text.at(match.start())}: {match[0]}"
        for text in _texts(repository)
        for match in _PATH.finditer(text.value)
        if (text.path, match[0]) not in _NOT_FILES and not match[0].startswith(_OVERLAY_OF_THE_READER)
        if not _PLACEHOLDER.search(match[0])
        if not _exists(match[0].rstrip("/"), text.path, repository.files | directories)
    ]
    assert not offenders, "\n".join(offenders)


def test_every_relative_link_leads_to_a_file(repository: Repository):
    directories = {str(parent) for path in repository.files for parent in PurePosixPath(path).parents}
    offenders = [
        f"{text.at(match.start())}: {match[1]}"
        for text in repository.markdown()
        for match in _LINK.finditer(text.value)
        if normpath(PurePosixPath(text.path).parent / match[1]) not in repository.files | directories
    ]
    assert not offenders, "\n".join(offenders)


def test_every_module_and_attribute_in_a_document_or_docstring_exists(repository: Repository):
    modules = {module.name: module for module in repository.modules}
    packages = {".".join(module.name.split(".")[:-1]) for module in repository.modules}
    offenders = [
        f"{text.at(match.start())}: {match[0]}"
        for text in _texts(repository)
        for match in _DOTTED.finditer(text.value)
        if not match[0].endswith(tuple(f".{suffix}" for suffix in _SUFFIXES))
        if not (match[0] in packages or _is_defined(match[0], modules) or _is_setting(match[0]))
    ]
    assert not offenders, "\n".join(offenders)


def _texts(repository: Repository) -> Iterator[Text]:
    yield from (text for text in repository.markdown() if text.path != _HISTORY)
    for module in repository.modules:
        yield from module.docstrings()


def _exists(path: str, document: str, known: frozenset[str]) -> bool:
    """Whether a path names a file or directory from the root, from the document's directory, or by its end."""
    if path in known or normpath(PurePosixPath(document).parent / path) in known:
        return True
    if "*" in path:
        return any(fnmatch(one, path) for one in known)
    return path.split("/")[0] not in _TOP and any(one.endswith(f"/{path}") for one in known)


def _is_defined(dotted: str, modules: dict[str, Module]) -> bool:
    """Whether the longest prefix that is a module defines or imports the next name, and that one the one after it."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        if (module := modules.get(".".join(parts[:length]))) is not None:
            rest = parts[length:]
            return not rest or (rest[0] in _names(module) and _is_member(module, rest))
    return False


def _is_member(module: Module, path: list[str]) -> bool:
    classes = [node for node in module.tree.body if isinstance(node, ast.ClassDef) and node.name == path[0]]
    if len(path) == 1 or not classes:
        return len(path) == 1 or path[0] in _imported(module)
    return path[1] in _bound(classes[0].body) | _set_on_self(classes[0])


@cache
def _names(module: Module) -> set[str]:
    return _bound(module.tree.body) | _imported(module)


def _bound(body: list[ast.stmt]) -> set[str]:
    names: set[str] = set()
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}
    return names


def _set_on_self(node: ast.ClassDef) -> set[str]:
    return {one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store)}


def _imported(module: Module) -> set[str]:
    imports = (node for node in module.nodes if isinstance(node, ast.Import | ast.ImportFrom))
    return {alias.asname or alias.name for node in imports for alias in node.names}


def _is_setting(dotted: str) -> bool:
    """Whether it is a key of the run file, or of the file of one process with the process's name before it."""
    first, *rest = dotted.split(".")
    roots: dict[str, list[Any]] = {"learner": [LearnerConfig, GatewayConfig], "rollout": [WorkerConfig]}
    return _has_key(RunFile, [first, *rest]) or any(_has_key(root, rest) for root in roots.get(first, []))


def _has_key(annotation: Any, path: list[str]) -> bool:
    if not path:
        return True
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(path[0])
        return field is not None and _has_key(field.annotation, path[1:])
    return any(_has_key(argument, path) for argument in get_args(annotation) if argument is not type(None))


def test_settings_are_told_from_modules():
    assert _is_setting("learner.parallel.tensor")
    assert _is_setting("learner.warmup.count")
    assert not _is_setting("learner.parallel.tensors")
    assert not any(_is_setting(f"{package}.nothing") for package in PACKAGES)
