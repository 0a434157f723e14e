r"""Agreement of the judge of mathematics, by kind: `python -m tests.bench.agreement [FILE]`.

The hand-made cases of tests/unit/rollout/rewards/math_cases.py, and with FILE, a file of JSON lines, the labelled model
solutions of GSM8K's repository (openai/grade-school-math, example_model_solutions.jsonl: 1,319 questions, four solutions of
each).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rollout.tasks.answers.math_judge import is_right
from rollout.tasks.reward_error import RewardError
from tests.unit.rollout.rewards.math_cases import CASES


def main() -> None:
    """Prints the tables."""
    kinds = dict.fromkeys(case.kind for case in CASES)
    print(f"{'kind':24} {'cases':>6} {'agree':>6} {'ms':>8}")
    total = 0
    for kind in kinds:
        cases = [case for case in CASES if case.kind == kind]
        begun = time.perf_counter()
        agree = sum(_verdict(case.answer, case.response, case.thinking) == case.expected for case in cases)
        total += agree
        print(f"{kind:24} {len(cases):6} {agree:6} {1000 * (time.perf_counter() - begun) / len(cases):8.2f}")
    print(f"{'all':24} {len(CASES):6} {total:6}")
    for path in sys.argv[1:]:
        labelled = list(_labelled(Path(path)))
        agree = sum((_verdict(answer, response) == "right") == right for answer, response, right in labelled)
        print(f"{'labelled solutions':24} {len(labelled):6} {agree:6}")


def _verdict(answer: str, response: str, thinking: bool = False) -> str:
    try:
        return "right" if is_right(answer, response, thinking) else "wrong"
    except RewardError:
        return "unscored"


def _labelled(path: Path) -> Iterator[tuple[str, str, bool]]:
    for line in path.read_text().split("\n"):
        row = json.loads(line) if line else {}
        answer = row.get("ground_truth", "").rpartition("A:")[2].strip()
        for solution in row.values():
            if isinstance(solution, dict):
                yield answer, solution["solution"], solution["is_correct"]


if __name__ == "__main__":
    main()
