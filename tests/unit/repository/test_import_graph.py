"""Imports among our modules form no circle, so that each can be read, tested and moved by itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

import pytest

from tests.unit.repository.sources import Module, Repository

# importer -> imported -> line of the first such import
Graph = dict[str, dict[str, int]]


def test_no_modules_import_each_other_in_a_circle(repository: Repository):
    graph = import_graph(repository.product)
    paths = {module.name: module.path for module in repository.product}
    circles = [component for component in components(graph) if len(component) > 1]
    assert not circles, "\n".join(_description(circle, graph, paths) for circle in circles)


def test_no_module_imports_itself(repository: Repository):
    graph = import_graph(repository.product)
    assert not [name for name, imported in graph.items() if name in imported]


@pytest.mark.parametrize(
    ("sources", "circles"),
    [
        ({"a/__init__.py": "", "a/b.py": "from a import c", "a/c.py": "import os"}, []),
        ({"a/__init__.py": "", "a/b.py": "import a.c", "a/c.py": "def f():\n    from a.b import g"}, ["a.b a.c"]),
        ({"a/__init__.py": "from a.b import x", "a/b.py": "from a import x"}, ["a a.b"]),
        ({"a/__init__.py": "from .b import x", "a/b.py": "from . import x"}, ["a a.b"]),
        ({"a/__init__.py": "import a.b", "a/b.py": "import c", "c.py": "import a.d", "a/d.py": ""}, ["a a.b c"]),
        ({"a.py": "if TYPE_CHECKING:\n    import b", "b.py": "import c", "c.py": "import a"}, ["a b c"]),
    ],
)
def test_circles_are_found(sources: Mapping[str, str], circles: list[str]):
    graph = import_graph([Module(path, source) for path, source in sources.items()])
    assert [" ".join(component) for component in components(graph) if len(component) > 1] == circles


def import_graph(modules: list[Module]) -> Graph:
    """Imports among the given modules, wherever in a module they stand: in functions and under TYPE_CHECKING too."""
    names = {module.name for module in modules}
    graph: Graph = {name: {} for name in names}
    for module in modules:
        for line, imported in _imports(module, names):
            graph[module.name].setdefault(imported, line)
    return graph


def _imports(module: Module, names: set[str]) -> Iterator[tuple[int, str]]:
    for node in module.nodes:
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _base(module, node)
            inner = {f"{base}.{alias.name}" for alias in node.names}
            targets = [base] if not inner <= names else []
            targets += inner & names
        else:
            continue
        for target in targets:
            yield from ((node.lineno, name) for name in _loaded(module.name, target) if name in names)


def _base(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = module.name.split(".")[: -node.level + module.is_package or None]
    return ".".join([*package, *([node.module] if node.module else [])])


def _loaded(importer: str, target: str) -> Iterator[str]:
    """The target, and the packages around it that the import runs first and that are not around the importer too."""
    yield target
    parts = target.split(".")
    for length in range(1, len(parts)):
        package = ".".join(parts[:length])
        if not f"{importer}.".startswith(f"{package}."):
            yield package


def components(graph: Graph) -> list[list[str]]:
    """Strongly connected components, each sorted (Tarjan)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = lowest[name] = len(index)
        path.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in path:
                lowest[name] = min(lowest[name], index[other])
        if lowest[name] == index[name]:
            start = path.index(name)
            found.append(sorted(path[start:]))
            del path[start:]

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


def _description(circle: list[str], graph: Graph, paths: Mapping[str, str]) -> str:
    edges = [
        f"  {paths[name]}:{line} imports {other}"
        for name in circle
        for other, line in sorted(graph[name].items())
        if other in circle
    ]
    return "\n".join([f"{len(circle)} modules in a circle:", *edges])
