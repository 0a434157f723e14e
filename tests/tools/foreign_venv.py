"""`make agents`, or `python -m tests.tools.foreign_venv [NAME ...]`: virtualenvs of agents, apart from ours.

Agents bring releases of libraries that our own virtualenv cannot have beside SGLang. Each file in requirements/agents is one
such virtualenv, of the file's name. It is built once into .venv-agents/NAME-DIGEST, where DIGEST is that of the file: another
content is another virtualenv, and the former one is removed.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
REQUIREMENTS, BUILT = ROOT / "requirements" / "agents", ROOT / ".venv-agents"
_BUILD_S = 1200  # limit of one pip call
_MARK = ".built"  # written last: a directory without it is the rest of a build that was interrupted


class ForeignVenv:
    """The virtualenv of one agent library.

    Args:
        name: of its file in requirements/agents.
        requirements: directory of such files.
        built: directory where virtualenvs are kept.

    Raises:
        ValueError: there is no such file.
    """

    def __init__(self, name: str, requirements: Path = REQUIREMENTS, built: Path = BUILT) -> None:
        self.name = name
        self._file = requirements / f"{name}.txt"
        if not self._file.is_file():
            raise ValueError(f"{name!r}: expected one of {', '.join(names(requirements))}; {self._file} does not exist")
        self._built = built
        digest = hashlib.sha256(self._file.read_bytes()).hexdigest()[:12]
        self.path = built / f"{name}-{digest}"

    @property
    def python(self) -> Path | None:
        """Its interpreter; None if it has not been built."""
        return self.path / "bin" / "python" if (self.path / _MARK).is_file() else None

    def build(self) -> Path:
        """Builds it, unless that was done before; returns its interpreter.

        Raises:
            subprocess.SubprocessError: pip failed, or did not end within its limit.
        """
        if self.python is None:
            shutil.rmtree(self.path, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(self.path)], check=True, timeout=_BUILD_S)
            pip = [str(self.path / "bin" / "python"), "-m", "pip", "install", "-qq", "--progress-bar", "off"]
            subprocess.run([*pip, "-r", str(self._file)], check=True, timeout=_BUILD_S)
            (self.path / _MARK).touch()
        for other in self._built.glob(f"{self.name}-*"):
            if other != self.path and len(other.name) == len(self.path.name):
                shutil.rmtree(other)
        return self.path / "bin" / "python"


def names(requirements: Path = REQUIREMENTS) -> list[str]:
    """Names of the virtualenvs that can be built."""
    return sorted(path.stem for path in requirements.glob("*.txt"))


def main(arguments: list[str]) -> None:
    """Builds the named virtualenvs, or all."""
    for name in arguments or names():
        venv = ForeignVenv(name)
        print(f"{name}: {'there already' if venv.python else 'installing'}: {venv.path.relative_to(ROOT)}", flush=True)
        venv.build()


if __name__ == "__main__":
    main(sys.argv[1:])
