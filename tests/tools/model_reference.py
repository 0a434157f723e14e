"""`python -m tests.tools.model_reference --write`: docs/models.md, made from the tables that the learner decides by.

Without --write, exits 1 when the committed file differs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from learner.config.model_keys import FIXED, OFF
from learner.config.model_types import MODEL_TYPES, REFUSED_MODEL_TYPES, ExpertRouter, ModelType
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
(tests/unit/learner/megatron/model/test_model_types.py). `make families` takes all of these models from the learner over a
publication into SGLang on the CPU, and compares logits and greedy tokens with those of transformers. TP: tensor, SP:
sequence, PP: pipeline, VPP: virtual pipeline, CP: context, EP: expert, DP: data parallelism.
"""
_ROPE = """## Rotary positions

Of each type: {kinds}. The angles of default, linear and yarn equal those of transformers bit for bit, those of llama3 to
1e-6. yarn reads factor, original_max_position_embeddings, beta_fast, beta_slow, truncate, attention_factor, mscale and
mscale_all_dim, which scales the softmax of latent attention too. SGLang does not read attention_factor: `leeway doctor` warns
where it is another number than the one that follows from factor. dynamic and longrope are refused: the angles of a token
would depend on the length of its sequence.

## Sigmoid routers

Scores, choice and weights are computed in float32, as by transformers. The correction bias (e_score_correction_bias) decides
which experts a token is sent to and does not weight them: it has no gradient, is float32 in every version whatever
`publish.dtype`, and a part of checkpoints and rollbacks. It stays what it was, bit for bit, unless
`learner.optimizer.expert_bias_rate` is set: after a step the bias of each expert moves by that much, up where the expert was
sent fewer tokens than the mean of its layer, down where it was sent more. `publish.average` does not average it.

## Layers that predict further tokens

num_nextn_predict_layers of glm4_moe and deepseek_v3 asks for layers behind the last one, which only speculative decoding
uses. Their tensors may be in the model's directory. They are neither trained nor published, and `leeway doctor` names them:
an engine that drafts with them has to read them from that directory, where they stay as they were while the policy moves.

## Windows

A window of attention is refused unless it is no smaller than max_position_embeddings, when it changes nothing. transformers
reads sliding_window of mistral and ministral without any switch, and takes 4096 where there is no such key.
"""


_ADAPTERS = """## Adapters

`[learner.lora]` trains low-rank adapters in place of the weights, in every layout: W + alpha / rank * B A for each
projection that `targets` names (q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj; all by default). A begins as
in peft and B at zero, so that the first version is the model itself. Of a mixture of experts only the projections of the
attention can be named, and latent attention has no adapters yet: both are refused by name. Gradients, the optimizer's
state, `publish.average` and checkpoints are of the adapters alone; a checkpoint has the digest of the weights that they
adapt, and is resumed beside no others. `publish.form` says what a version is: "merged", the whole model with its adapters
added in float32, which any engine runs, or "adapter", the adapters alone. Equal to transformers in float64, with the
products added to its weights, in these layouts: {layouts}.
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
            _ADAPTERS.format(layouts=", ".join(dict.fromkeys(cell.layout for cell in layouts() if cell.adapted))),
            "## Keys of config.json that are refused",
            "",
            "Each would train another model than the one that samples.",
            "",
            *_table(("key", "learner"), keys),
            "",
        ]
    )


def _learner(known: ModelType) -> str:
    parts = _router(known.router) if known.router else ["dense"]
    biases = {"qkv": "biases of q, k, v", "configured": "biases of q, k, v and o where attention_bias is true"}
    biases |= {"qkv configured": "biases of q, k, v where attention_bias is true"}
    if known.attention == "latent":
        parts += ["latent attention (MLA), with a latent of the queries or without, rotating neighbours or halves"]
        biases["configured"] = "biases of the projections to latents and of o where attention_bias is true"
    parts += [biases[known.bias]] if known.bias in biases else []
    norms = {True: "RMSNorm of q and k", "configured": "RMSNorm of q and k where use_qk_norm is true"}
    parts += [norms[known.qk_norm]] if known.qk_norm in norms else []
    parts += (
        [f"rotates a part of each head (partial_rotary_factor, {known.rotated} by default)"] if known.rotated else []
    )
    parts += ["layers of num_nextn_predict_layers left out"] if known.drafts else []
    parts += ["full attention only"] if known.window else []
    parts += [] if known.rope_types == tuple(ROPE_TYPES) else [f"rope: {', '.join(known.rope_types)}"]
    return "; ".join(parts)


def _router(router: ExpertRouter) -> list[str]:
    parts = [
        f"mixture of experts, {router.score} router{' with a correction bias' * router.corrected}, no token dropped"
    ]
    parts += ["the first layers dense (first_k_dense_replace)"] if router.dense == "first" else []
    parts += [f"shared experts ({router.shared})"] if router.shared else []
    parts += ["experts within groups that are chosen first (n_group, topk_group)"] if router.grouped else []
    parts += ["weights times routed_scaling_factor"] if router.scaled else []
    return parts


def _tried(name: str) -> str:
    """The layouts of the cells of the matrix with models of a type, each once, in their order."""
    found = [cell.layout for cell in layouts() if MODELS[cell.model]().model_type == name and not cell.adapted]
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
