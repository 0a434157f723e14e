"""The repository's own files, read and parsed once, for the tests of its hygiene."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[3]
PACKAGES = ("learner", "rollout", "runtime")
# Generated code, and stand-ins that are shaped by the libraries they replace.
_NOT_OURS = ("proto/leeway/v1/", "rollout/cpu_engine/")


@dataclass(frozen=True)
class Text:
    """A string of a source file: a docstring, or a constant of the code."""

    path: str
    line: int
    value: str

    def at(self, offset: int) -> str:
        """Location of the character at ``offset``, as path:line."""
        return f"{self.path}:{self.line + self.value.count(chr(10), 0, offset)}"


@dataclass(frozen=True)
class Module:
    """One Python file of the repository.

    Attributes:
        path: relative to the repository's root, with forward slashes.
    """

    path: str
    source: str

    @cached_property
    def tree(self) -> ast.Module:
        """Syntax tree of the file."""
        return ast.parse(self.source, self.path)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """Every node of the syntax tree."""
        return list(ast.walk(self.tree))

    @property
    def name(self) -> str:
        """Dotted name; a package's ``__init__`` bears the name of the package."""
        parts = PurePosixPath(self.path).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def is_package(self) -> bool:
        """Whether the file is the ``__init__`` of a package."""
        return self.path.endswith("/__init__.py")

    def docstrings(self) -> Iterator[Text]:
        """Docstrings of the module, its classes and functions, and of attributes (a string below an assignment)."""
        for node in self.nodes:
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                yield Text(self.path, node.lineno, node.value.value)

    def strings(self) -> Iterator[Text]:
        """All string constants, docstrings and the constant pieces of f-strings included."""
        for node in self.nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield Text(self.path, node.lineno, node.value)

    def definitions(self) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
        """Classes, functions and methods at any depth."""
        for node in self.nodes:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield node


@dataclass(frozen=True)
class Repository:
    """The files that git tracks, or would track once they are added.

    Attributes:
        files: their paths relative to the root.
        modules: the Python files that are written by hand.
    """

    files: frozenset[str]
    modules: tuple[Module, ...]

    @classmethod
    def read(cls) -> Repository:
        """Reads the working tree around this file."""
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        files = sorted(path for path in listed.split("\0") if path and (ROOT / path).is_file())
        ours = (path for path in files if path.endswith(".py") and not path.startswith(_NOT_OURS))
        return cls(frozenset(files), tuple(Module(path, (ROOT / path).read_text()) for path in ours))

    @property
    def product(self) -> list[Module]:
        """Modules of the packages that are installed: no tests."""
        return [module for module in self.modules if module.path.split("/")[0] in PACKAGES]

    def markdown(self) -> Iterator[Text]:
        """The text of every Markdown file."""
        for path in sorted(self.files):
            if path.endswith(".md"):
                yield Text(path, 1, (ROOT / path).read_text())
