"""`python -m tests.families [NAME ...]`: every model type from the learner over a publication into real SGLang on the CPU.

For each model of the equivalence matrix and of the tests of single ranks: two training steps of the learner, publication,
the learner's logits against those that transformers computes of the published version, and greedy tokens of SGLang, refitted
to the versions before and after the steps, against transformers'. NAME: only models whose name begins so.

Exit status: 0 all equal, but for models that SGLang cannot run on a CPU; 1 one differs, or did not run for another reason.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.families.compare import Greedy
from tests.families.engine import NEW_TOKENS
from tests.families.models import families, without_model
from tests.families.proof import LOGITS, Proof
from tests.families.prove import prove


def main() -> int:
    """Runs all models, one after the other, and prints the table; returns the exit status."""
    options = _options()
    known = families()
    chosen = [family for family in known if family.name.startswith(tuple(options.name) or "")]
    if not chosen:
        sys.exit(f"no model's name begins with {options.name}; there are: {', '.join(family.name for family in known)}")
    os.nice(10)
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1"}
    warnings.simplefilter("ignore")  # megatron warns of its own doings
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    console, started = Console(width=max(150, Console().width)), time.monotonic()
    proofs: dict[str, Proof] = {}
    with tempfile.TemporaryDirectory(prefix="families") as root:
        for number, family in enumerate(chosen):
            console.print(f"{number + 1} of {len(chosen)}: {family.name}")
            out = Path(options.keep or root) / family.name.replace(" ", "_").replace(",", "")
            out.mkdir(parents=True)
            proofs[family.name] = prove(family, out, options.port + number)
            console.print(f"   {escape(', '.join(_row(proofs[family.name])))}")
    console.print(table(proofs))
    wrong = [name for name, proof in proofs.items() if proof.faults]
    untried = [] if options.name else without_model()
    if untried:
        console.print(f"no model of {', '.join(untried)} in tests/parallel/reference.py")
    console.print(f"{len(proofs) - len(wrong)} of {len(proofs)} as expected, in {time.monotonic() - started:.0f} s")
    return 1 if wrong or untried else 0


def table(proofs: dict[str, Proof]) -> Table:
    """All results; what is wrong is red."""
    shown = Table(
        title=f"learner and real SGLang against transformers, float32, {NEW_TOKENS} greedy tokens of a prompt"
    )
    for column in ("model", f"logits\n<= {LOGITS:.0e}", "tokens equal\nbefore", "tokens equal\nafter", "remarks"):
        shown.add_column(column)
    for name, proof in proofs.items():
        shown.add_row(name, *(escape(cell) for cell in _row(proof)), style="red" if proof.faults else "")
    return shown


def _row(proof: Proof) -> list[str]:
    cells = [_tokens(one) for one in proof.tokens] or ["not run", "not run"]
    remarks = [*(fault.upper() for fault in proof.faults), *proof.warnings, *([proof.not_run] if proof.not_run else [])]
    return [f"{proof.logits:.1e}", *cells, "; ".join(remarks)]


def _tokens(found: Greedy) -> str:
    undecided = f", {found.undecided} undecided" if found.undecided else ""
    differs = f", differ by {found.gap:.1e}" if found.equal < found.compared else ""
    return f"{found.equal} of {found.compared}{undecided}{differs}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.families", description=__doc__)
    parser.add_argument("name", nargs="*", help="only models whose name begins so")
    parser.add_argument(
        "--port", type=int, default=31_500, help="port of the first engine; the others count on from there"
    )
    parser.add_argument("--keep", help="empty directory that models, versions and the engines' logs are left in")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
