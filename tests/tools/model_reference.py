"""`python -m tests.tools.model_reference --write`: docs/models.md, made from the tables that the learner decides by.

Without --write, exits 1 when the committed file differs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from learner.config.model_keys import FIXED, OFF
from learner.config.model_types import MODEL_TYPES, REFUSED_MODEL_TYPES, ModelType
from learner.config.rope import ROPE_TYPES
from tests.parallel.cells import layouts
from tests.parallel.reference import MODELS

FILE = Path(__file__).parents[2] / "docs" / "models.md"
_HEAD = """# Models

The models that can be trained, made from the code by `python -m tests.tools.model_reference --write`. A model is a Hugging
Face directory; `model_type` in its config.json decides. `leeway doctor` checks a directory by the same tables
(learner/config/model_types.py, model_keys.py) before anything is started.

Learner: what it computes. It trains all weights, in every layout of `[learner.parallel]` that the sizes of the model allow.
Refit: the code by which SGLang 0.5.23 runs the published version, whose tensors have the names of the model it began with.
Tried: cells of the equivalence matrix (`make test-parallel`), in which loss, gradients and updates of an fp32 run equal those
of transformers in float64; every type also on one rank, with its variants and an export that is bit for bit what was loaded
(tests/unit/learner/megatron/model/test_model_types.py). TP: tensor, SP: sequence, PP: pipeline, VPP: virtual pipeline, CP:
context, EP: expert, DP: data parallelism.
"""
_ROPE = """## Rotary positions

Of each type: {kinds}. The angles of default, linear and yarn equal those of transformers bit for bit, those of llama3 to
1e-6. yarn reads factor, original_max_position_embeddings, beta_fast, beta_slow, truncate, attention_factor, mscale and
mscale_all_dim. SGLang does not read attention_factor: `leeway doctor` warns where it is another number than the one that
follows from factor. dynamic and longrope are refused: the angles of a token would depend on the length of its sequence.

## Windows

A window of attention is refused unless it is no smaller than max_position_embeddings, when it changes nothing. transformers
reads sliding_window of mistral and ministral without any switch, and takes 4096 where there is no such key.
"""


def text() -> str:
    """The whole reference."""
    rows = [
        (f"`{name}`<br>{known.models}", _learner(known), known.engine, _tried(name))
        for name, known in MODEL_TYPES.items()
    ]
    refused = [(f"`{name}`", f"refused: {reason}") for name, reason in REFUSED_MODEL_TYPES.items()]
    keys = [(f"`{name}`", f"must be absent, false or empty: {reason}{_readers(name)}") for name, reason in OFF.items()]
    keys += [(f"`{name}`", f"must be absent or {value!r}{_readers(name)}") for name, value in FIXED.items()]
    return "\n".join(
        [
            _HEAD,
            *_table(("model", "learner", "refit", "tried"), rows),
            "",
            "Any other `model_type` is refused with the list of those above. Some that people ask for:",
            "",
            *_table(("model", "learner"), refused),
            "",
            _ROPE.format(kinds=", ".join(ROPE_TYPES)),
            "## Keys of config.json that are refused",
            "",
            "Each would train another model than the one that samples.",
            "",
            *_table(("key", "learner"), keys),
            "",
        ]
    )


def _learner(known: ModelType) -> str:
    parts = ["mixture of experts, softmax router, no token dropped" if known.mixture else "dense"]
    biases = {"qkv": "biases of q, k, v", "configured": "biases of q, k, v and o where attention_bias is true"}
    parts += [biases[known.bias]] if known.bias in biases else []
    parts += ["RMSNorm of q and k"] if known.qk_norm else []
    parts += ["full attention only"] if known.window else []
    parts += [] if known.rope_types == tuple(ROPE_TYPES) else [f"rope: {', '.join(known.rope_types)}"]
    return "; ".join(parts)


def _tried(name: str) -> str:
    """The layouts of the cells of the matrix with models of a type, each once, in their order."""
    found = [cell.layout for cell in layouts() if MODELS[cell.model]().model_type == name]
    return ", ".join(dict.fromkeys(found)) or "one rank"


def _readers(key: str) -> str:
    kinds = [f"`{name}`" for name, known in MODEL_TYPES.items() if key in known.reads]
    return f"; read for {', '.join(kinds)}" if kinds else ""


def _table(heading: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [heading, ("---",) * len(heading), *rows]
    return ["| " + " | ".join(cells) + " |" if cells[0] != "---" else "|" + "|".join(cells) + "|" for cells in lines]


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        FILE.write_text(text())
    elif not FILE.is_file() or FILE.read_text() != text():
        sys.exit(f"{FILE} is not what the code says: run `python -m tests.tools.model_reference --write` and commit")
