"""Memory of a learner's ranks: against what GPUs were measured to need, and against numbers worked by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from learner.config import LearnerConfig, LoraConfig, ParallelConfig
from learner.config.activation_memory import LOGITS_AT_A_TIME
from learner.config.memory import RankMemory, adapter_count, checkpoint_bytes, memory_by_stage, parameter_count
from learner.config.objectives_table import OBJECTIVES
from learner.config.workload import Workload
from learner.megatron.model import logprobs

GIB = 2**30
QWEN3 = {
    "model_type": "qwen3", "vocab_size": 151_936, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
    "num_hidden_layers": 28, "tie_word_embeddings": True,
}  # fmt: skip
SMALL = {
    "model_type": "llama", "vocab_size": 100, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False,
}  # fmt: skip
LAYER = 8 * 8 + 2 * 4 * 8 + 8 * 8 + 3 * 8 * 12  # queries, keys and values, output, gated MLP
NORMS = 2 * 8
MIXTURE = {**SMALL, "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 6}


# Attention with latents: heads of 6 channels of queries and keys, of which 2 are rotated, and of 3 channels of values.
LATENT = {
    **SMALL, "model_type": "deepseek_v3", "num_key_value_heads": 4, "q_lora_rank": 7, "kv_lora_rank": 5,
    "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 3, "n_routed_experts": 4, "n_shared_experts": 1,
    "num_experts_per_tok": 2, "moe_intermediate_size": 6, "first_k_dense_replace": 3, "n_group": 1, "topk_group": 1,
}  # fmt: skip


def ranks(config: dict[str, Any], world: int, parallel: dict[str, Any] | None = None, **work: Any) -> list[RankMemory]:
    return memory_by_stage(config, Workload(ParallelConfig.parse(parallel or {}, source="test"), world, **work))


@pytest.mark.parametrize(
    ("sizes", "recompute", "measured_gib", "error"),
    [
        ({"hidden_size": 1024, "intermediate_size": 3072}, "none", 33.4, 0.02),
        ({"hidden_size": 2048, "intermediate_size": 6144}, "full", 35.3, 0.02),
        (
            {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
            "full", 82.5, 0.02,
        ),
    ],
)  # fmt: skip
def test_what_gpus_were_measured_to_need(sizes: dict[str, int], recompute: str, measured_gib: float, error: float):
    """BENCHMARKS.md, "On a GPU": one rank, bfloat16, plain operators; three rows of 11.6k tokens where two were too short."""
    (found,) = ranks(QWEN3 | sizes, 1, recompute=recompute, tokens=11_626, fused=False)
    # The gated MLP of that day kept SiLU's output and a copy of the other half, too.
    layers = (QWEN3 | sizes)["num_hidden_layers"] if recompute == "none" else 1
    more = 2 * sizes["intermediate_size"] * 2 * 11_626 * layers
    assert (found.model + more) / GIB == pytest.approx(measured_gib, rel=error)


def test_the_chunk_of_logits_is_the_one_that_is_computed():
    assert LOGITS_AT_A_TIME == logprobs._CHUNK


def test_a_rank_alone_has_everything():
    (found,) = ranks(SMALL, 1, dtype="bfloat16")
    whole = 4 * (LAYER + NORMS) + 8 + 2 * 100 * 8
    assert parameter_count(SMALL) == whole
    assert (found.weights, found.gradients, found.optimizer) == (2 * whole, 4 * whole, 12 * whole)
    assert found.checkpoint == checkpoint_bytes(whole, "bfloat16") == 14 * whole
    # Copies of the one that is being written and of one that waits; queries, keys and values of the first.
    cut_out = 4 * (8 * 8 + 2 * 4 * 8)
    assert found.publication == 2 * (2 * whole + cut_out)
    (single,) = ranks(SMALL, 1, dtype="float32", published="float32", deltas=True)
    assert (single.weights, single.optimizer) == (4 * whole, 8 * whole)
    assert single.publication == 4 * (3 * whole + 2 * cut_out), "and the base of the next"


def test_tensor_and_pipeline_divide_the_weights_and_norms_are_copied():
    first, last = ranks(SMALL, 8, {"tensor": 2, "pipeline": 2}, dtype="bfloat16")
    layers = 2 * (LAYER // 2 + NORMS)
    assert first.gradients == 4 * (layers + 400)
    assert last.gradients == 4 * (layers + 400 + 8)
    assert first.optimizer == 12 * (layers + 400) // 2  # two data ranks
    assert first.checkpoint == (2 + 12) * (layers + 400) // 2, "and each of them saves its half, weights too"
    assert first.logits == 0 < last.logits
    tied = ranks(SMALL | {"tie_word_embeddings": True}, 4, {"tensor": 2, "pipeline": 2})
    assert [stage.gradients for stage in tied] == [first.gradients, last.gradients], "the last stage has a copy"


def test_stages_that_do_not_divide_the_layers():
    uneven = ranks(SMALL | {"num_hidden_layers": 5}, 4, {"pipeline": 4})
    assert [stage.gradients - 4 * (LAYER + NORMS) for stage in uneven] == [3200, 4 * (LAYER + NORMS), 0, 3200 + 32]
    interleaved = ranks(SMALL | {"num_hidden_layers": 5}, 2, {"pipeline": 2, "virtual_pipeline": 2})
    assert [stage.gradients - 3200 for stage in interleaved] == [4 * 2 * (LAYER + NORMS), 4 * 3 * (LAYER + NORMS) + 32]


def test_a_head_of_keys_that_several_ranks_have_is_divided_no_further():
    """Two key/value heads, four ranks: weights are quarters, and each gathers all queries, keys and values."""
    (found,) = ranks(SMALL, 4, {"tensor": 4}, recompute="none")
    assert found.gradients == 4 * (4 * (LAYER // 4 + NORMS) + 8 + 2 * 200)
    layer = 4 * 8 + (2 + 2 * 2) + 2 + 3 * 12 // 4  # norms, attention's input and output, gated MLP
    assert found.activations == (4 * layer + 16) * 2 * 16_384
    normed = SMALL | {"model_type": "qwen3", "head_dim": 2}
    (padded,) = ranks(normed, 4, {"tensor": 4}, recompute="none", fused=False)
    assert padded.activations == (4 * (layer + 16 + 2) + 16) * 2 * 16_384, "the norms keep the whole product"


def test_a_vocabulary_that_does_not_divide_has_rows_of_padding():
    odd, even = (ranks(SMALL | {"vocab_size": count}, 2, {"tensor": 2})[0] for count in (99, 100))
    assert (odd.gradients, odd.logits) == (even.gradients, even.logits)


def test_what_ranks_have_slices_of_is_brought_together_and_experts_are_not():
    share = 2 * parameter_count(SMALL) // 4
    assert ranks(SMALL, 4, {"tensor": 2})[0].publication == 2 * share + share
    assert ranks(SMALL, 4, {"tensor": 2}, deltas=True)[0].publication == 3 * share + 2 * share
    experts = 4 * 4 * 3 * 8 * 6
    dense = parameter_count(MIXTURE) - experts
    assert ranks(MIXTURE, 2, {"tensor": 2})[0].publication == 2 * (dense + experts) + dense, "of two bytes, halved"


def test_what_latents_are_made_of_is_whole_on_every_rank_and_heads_are_divided():
    down = 7 * 8 + (5 + 2) * 8 + 7 + 5  # with the norms behind them
    heads = 4 * 6 * 7 + 4 * (4 + 3) * 5 + 8 * 4 * 3  # queries, plain channels of keys with values, output
    mixture = 4 * 8 + 4 + 3 * 8 * 6  # router, its correction bias, the expert that every token is sent to
    experts = 4 * 3 * 8 * 6
    outside = 4 * NORMS + 8 + 2 * 100 * 8
    dense = 4 * (down + heads) + 3 * 3 * 8 * 12 + mixture
    assert parameter_count(LATENT) == dense + experts + outside
    (found,) = ranks(LATENT, 2, {"tensor": 2, "sequence": True})
    whole = 4 * (down + NORMS) + 8 + 4 * 8 + 4
    assert found.gradients == 4 * (whole + (dense + outside - whole) // 2 + experts)
    assert ranks(LATENT, 1)[0].publication == 2 * 2 * parameter_count(LATENT), "and nothing is cut out"


@pytest.mark.parametrize(
    ("work", "attention"),
    [
        # Both norms' input, with the rotated channels, and output; queries, keys, values and output, each 6 wide; output.
        ({}, 2 * (7 + 5) + 2 + 4 * 4 * 6 + 4 * 3),
        ({"recompute": "selective"}, 7 + 5 + 2 + 4 * 4 * 6 + 4 * 3),
        ({"parallel": {"context": 2}}, 2 * (7 + 5) + 2 + 6 * 4 * 6 + 4 * 3),
        ({"parallel": {"tensor": 2, "sequence": True}}, (2 * (7 + 5) + 2) / 2 + (4 * 4 * 6 + 4 * 3) / 2),
    ],
)
def test_latents_are_kept_short_and_heads_as_wide_as_the_wider_of_keys_and_values(
    work: dict[str, Any], attention: float
):
    layout = work.pop("parallel", {})
    (found, *_) = ranks(LATENT | {"first_k_dense_replace": 4}, 2, layout, **({"recompute": "none"} | work))
    rebuilt, tensor = "recompute" in work, layout.get("tensor", 1)
    layer = ((4 - 2 * rebuilt) * 8 + (3 - rebuilt) * 12) / tensor + attention
    assert found.activations == 4 * layer * 2 * 16_384 // layout.get("context", 1)


@pytest.mark.parametrize(("cached", "copies"), [(1, 2), (2, 1), (5, 1)])
def test_cached_versions_and_published_ones_are_one_copy(cached: int, copies: int):
    """Two data ranks: each copies all its weights, where it would have copied half of them."""
    whole, cut_out = 2 * parameter_count(SMALL), 2 * 4 * (8 * 8 + 2 * 4 * 8)
    (found,) = ranks(SMALL, 2, versions=5, cache_bytes=cached * whole)
    assert (found.version, found.cache) == (whole, cached * whole)
    assert found.publication == copies * whole + cut_out // 2
    (deltas,) = ranks(SMALL, 2, versions=5, cache_bytes=cached * whole, deltas=True)
    assert deltas.publication == max(copies, 4 - cached) * whole + cut_out
    (none,) = ranks(SMALL, 2, versions=5, cache_bytes=whole - 1)
    assert (none.cache, none.publication) == (0, whole + cut_out // 2)


def test_the_first_stage_has_the_most_micro_batches_under_way():
    first, last = ranks(SMALL, 2, {"pipeline": 2}, recompute="none")
    assert first.activations == 2 * last.activations


def test_experts_are_divided_by_their_own_ranks():
    one, shared = ranks(MIXTURE, 4)[0], ranks(MIXTURE, 4, {"expert": 4})[0]
    experts = 4 * 4 * 3 * 8 * 6
    assert one.gradients - shared.gradients == 4 * experts * 3 // 4
    assert one.optimizer == shared.optimizer, "either way four ranks share it"


@pytest.mark.parametrize("divided", [{"tensor": 2, "sequence": True}, {"context": 2}])
def test_tokens_are_divided_by_sequence_and_context(divided: dict[str, Any]):
    whole, half = (ranks(SMALL, 4, layout, recompute="full", fused=False)[0] for layout in (None, divided))
    keys = 0 if "tensor" in divided else 2 * 4 * 2 // 2 * 16_384  # the recomputed layer has those of both ranks
    assert half.activations == whole.activations // 2 + keys
    copied = ranks(SMALL, 4, {"tensor": 2}, recompute="full")[0]
    assert copied.activations > whole.activations // 2


def test_recomputation_keeps_less():
    kinds, normed = ("none", "selective", "full"), SMALL | {"model_type": "qwen3", "head_dim": 2}
    kept = [ranks(normed, 1, recompute=kind, fused=False)[0].activations for kind in kinds]
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) == 3
    # Both norms and what follows them; queries, their product with keys and values; the kernel's input and output; the
    # projection's input; three times the MLP.
    assert kept[0] == 4 * (4 * 8 + (8 + 16) + (16 + 8) + 8 + 3 * 12) * 2 * 16_384
    # Without what follows the norms, and the MLP's product.
    assert kept[1] == 4 * (2 * 8 + (8 + 16) + (16 + 8) + 8 + 2 * 12) * 2 * 16_384


@pytest.mark.parametrize(
    ("work", "attention"),
    [
        # The norms' input, the kernel's input, and its output.
        ({}, (8 + 4) + (8 + 2 * 4) + 8),
        ({"recompute": "selective"}, (8 + 4) + 4 + 8),  # of the kernel's input, the values
        ({"dtype": "float32"}, (8 + 16) + (16 + 8) + 8),
        ({"parallel": {"context": 2}}, (8 + 16) + (16 + 16) + 8),
    ],
)
def test_fused_kernels_keep_less(work: dict[str, Any], attention: int):
    normed, layout = SMALL | {"model_type": "qwen3", "head_dim": 2}, work.pop("parallel", None)
    width, shared = (4 if "dtype" in work else 2), (2 if layout else 1)
    (found, *_) = ranks(normed, 2, layout, **({"recompute": "none"} | work))
    rebuilt = "recompute" in work
    assert found.activations == 4 * ((4 - 2 * rebuilt) * 8 + attention + (3 - rebuilt) * 12) * width * 16_384 // shared
    assert found.update == 0
    plain = ranks(normed, 2, layout, fused=False, **({"recompute": "none"} | work))[0]
    assert (plain.activations > found.activations) == (width == 2 and layout is None), "one call for the whole row"
    assert plain.update == found.optimizer * 4 // (8 if "dtype" in work else 12)
    on_cpu = ranks(normed, 2, layout, device="cpu", **({"recompute": "none"} | work))[0]
    assert on_cpu.activations == plain.activations


def test_chunks_of_interleaved_stages_are_under_way_together():
    plain, interleaved = (
        ranks(SMALL, 2, {"pipeline": 2, "virtual_pipeline": chunks}, recompute="none")[0] for chunks in (1, 2)
    )
    assert interleaved.activations == plain.activations * 5 // 4  # 5 chunks of one layer, not 2 of two


def test_recomputing_under_earlier_versions_needs_their_weights(tmp_path: Any):
    values = {
        "model": "m", "queue": {"url": "redis://x", "run": "r"}, "steps": 1, "checkpoint": {"dir": "c"},
        "publish": {"dir": "p"}, "metrics_dir": "d", "max_staleness": 3,
    }  # fmt: skip
    plain = Workload.of(LearnerConfig.parse(values, source="test"), 1, "cpu", GIB)
    recomputing = Workload.of(
        LearnerConfig.parse(values | {"objective": {"name": "grpo"}}, source="test"), 1, "cpu", GIB
    )
    (without,), (found,) = memory_by_stage(SMALL, plain), memory_by_stage(SMALL, recomputing)
    assert (without.scoring, without.cache) == (0, 0)
    assert (found.scoring, found.version) == (found.weights, found.weights)
    assert (found.cached, found.cache) == (5, 5 * found.version), (
        "max_staleness + 2 versions, whatever the model's size"
    )


def test_a_frozen_reference_is_a_shard_in_host_memory_and_is_scored_under(monkeypatch: pytest.MonkeyPatch):
    plain, anchored = (Workload.of(learner(objective={"name": "spo", "kl_coef": kl}), 1, "cpu", GIB) for kl in (0, 0.1))
    assert (plain.reference, anchored.reference, anchored.versions) == (False, True, 0)
    whole = parameter_count(SMALL)
    without, found = ranks(SMALL, 2, {"pipeline": 2}), ranks(SMALL, 2, {"pipeline": 2}, reference=True)
    assert sum(stage.reference for stage in found) == sum(stage.scoring for stage in found) == 2 * whole
    assert [stage.reference + stage.scoring for stage in without] == [0, 0]
    assert [one.host - other.host for one, other in zip(found, without, strict=True)] == [one.version for one in found]
    (wide,) = ranks(SMALL, 1, reference=True, published="float32", tokens=1, fused=True)
    assert (wide.reference, wide.scoring) == (4 * whole, 2 * whole), "as wide as what is published, and as the weights"
    monkeypatch.setitem(OBJECTIVES, "spo", replace(OBJECTIVES["spo"], needs_reference=True))
    assert Workload.of(learner(objective={"name": "spo"}), 1, "cpu", GIB).reference


def test_cached_versions_are_whole_and_no_more_than_there_are():
    parallel = ParallelConfig()
    one = memory_by_stage(SMALL, Workload(parallel, 1))[0].version

    def cached(**work: Any) -> int:
        return memory_by_stage(SMALL, Workload(parallel, 1, max_staleness=3, **work))[0].cached

    assert cached(versions=8, cache_room=4 * one + 1) == 4, "the memory of the machine bounds the default"
    assert cached(versions=8, cache_bytes=one - 1, cache_room=GIB) == 0
    assert cached(versions=8, cache_bytes=6 * one, cache_room=one) == 6, "a value that was set is not bounded"
    assert cached(versions=8, cache_bytes=1 << 40) == 8
    assert cached(versions=0, cache_bytes=1 << 40) == 0


def test_a_cached_version_is_as_wide_as_what_is_published():
    float32, bfloat16 = (
        memory_by_stage(SMALL, Workload(ParallelConfig(), 1, dtype="float32", published=dtype))[0]
        for dtype in ("float32", "bfloat16")
    )
    assert (float32.version, bfloat16.version) == (float32.weights, float32.weights // 2)


def test_gradients_in_bfloat16_need_half_the_memory_and_a_wide_copy_of_a_ranks_part_in_the_step():
    wide, narrow = (ranks(SMALL, 2, gradients=name)[0] for name in ("float32", "bfloat16"))
    assert narrow.gradients * 2 == wide.gradients == 4 * parameter_count(SMALL)
    assert (wide.update, narrow.update) == (0, 4 * parameter_count(SMALL) // 2)


def test_an_average_is_shared_out_as_the_optimizers_state_is_and_gathered_whole_for_a_version():
    whole = parameter_count(SMALL)
    (alone,) = ranks(SMALL, 1, averaged=True)
    assert (alone.average, alone.gathered) == (4 * whole, 0), "one rank has it whole"
    assert (alone.checkpoint, checkpoint_bytes(whole, "bfloat16", averaged=True)) == (18 * whole, 18 * whole)
    plain, two = ranks(SMALL, 2)[0], ranks(SMALL, 2, averaged=True)[0]
    assert (two.average, two.gathered, two.checkpoint) == (4 * whole // 2, 2 * whole, 18 * whole // 2)
    assert ranks(SMALL, 2, averaged=True, published="float32")[0].gathered == 4 * whole
    assert two.model == plain.model + two.average, "activations are gone when a version is copied"
    assert ranks(SMALL, 2, averaged=True, tokens=1)[0].model == (2 + 4 + 12 // 2 + 4 // 2 + 2) * whole
    assert (plain.average, plain.gathered) == (0, 0)
    experts = 4 * 4 * 3 * 8 * 6
    (shared,) = ranks(MIXTURE, 2, {"expert": 2}, averaged=True)
    assert shared.gathered == 2 * (parameter_count(MIXTURE) - experts), "each rank has its own experts' average whole"


@pytest.mark.parametrize(("recompute", "numbers"), [("none", 3), ("selective", 2)])
def test_shared_experts_are_divided_and_keep_what_a_dense_layer_of_their_width_keeps(recompute: str, numbers: int):
    glm = MIXTURE | {"model_type": "glm4_moe", "n_routed_experts": 4, "first_k_dense_replace": 1}
    layout = {"tensor": 2, "sequence": True, "expert": 2}
    one, two = (
        ranks(glm | {"n_shared_experts": count}, 2, layout, tokens=1000, recompute=recompute)[0] for count in (1, 2)
    )
    assert two.activations - one.activations == 3 * numbers * 6 // 2 * 2 * 1000  # three layers with experts
    assert two.gradients - one.gradients == 4 * 3 * (3 * 8 * 6) // 2


def test_adapters_alone_have_gradients_a_state_of_the_optimizer_and_a_place_in_checkpoints():
    lora = LoraConfig(rank=2, alpha=2)
    whole, own = parameter_count(SMALL), 4 * 2 * (16 + 12 + 12 + 16 + 3 * 20)  # in + out of each projection
    assert adapter_count(SMALL, lora) == own
    plain, found = (ranks(SMALL, 1, averaged=True, versions=1, lora=one)[0] for one in (None, lora))
    assert (found.weights, found.gradients, found.optimizer) == (2 * (whole + own), 4 * own, 12 * own)
    assert (found.average, found.checkpoint) == (4 * own, checkpoint_bytes(own, "bfloat16", averaged=True))
    assert plain.logits - found.logits == 100 * 8 * (4 + 2), "the output layer is frozen"
    # Published merged: copied in fp32, scored as a whole model, and made of the model without adapters, which is kept.
    assert (found.version, found.scoring, found.publication) == (4 * own, 2 * whole, 3 * 4 * own + (2 + 2) * whole)
    (alone,) = ranks(SMALL, 1, versions=1, lora=lora, form="adapter")
    assert (alone.version, alone.scoring, alone.publication) == (2 * own, 2 * own, 3 * 2 * own)
    first, second = ranks(SMALL, 8, {"tensor": 2, "pipeline": 2}, lora=lora)
    half = 2 * 2 * ((8 + 4) + 2 * (8 + 2) + (4 + 8) + 2 * (8 + 6) + (6 + 8))  # of two layers, one of A and B cut by two
    assert (first.gradients, second.gradients, first.optimizer) == (4 * half, 4 * half, 12 * half // 2)
    assert Workload.of(learner(lora={"rank": 2, "alpha": 2}), 1, "cpu", 0).lora == lora


def test_the_last_gradient_is_shared_out_as_the_optimizers_state_is():
    plain, projects = ranks(SMALL, 2)[0], ranks(SMALL, 2, projects=True)[0]
    assert (plain.last_gradient, projects.last_gradient) == (0, 4 * parameter_count(SMALL) // 2)
    assert projects.model == plain.model + projects.last_gradient
    assert projects.checkpoint == plain.checkpoint + projects.last_gradient
    assert checkpoint_bytes(100, "bfloat16", projects=True) == checkpoint_bytes(100, "bfloat16") + 400
    for mode, projected in (("gac", True), ("off", False)):
        assert Workload.of(learner(lr_control={"mode": mode}), 1, "cpu", 0).projects is projected


def learner(**values: Any) -> LearnerConfig:
    required = {
        "model": "m", "queue": {"url": "redis://x", "run": "r"}, "steps": 1, "checkpoint": {"dir": "c"},
        "publish": {"dir": "p"}, "metrics_dir": "d",
    }  # fmt: skip
    return LearnerConfig.parse({**required, **values}, source="test")


def test_a_learners_settings_say_whether_versions_are_averaged():
    for average, averaged in ((0.9, True), (0.0, False)):
        settings = learner(publish={"dir": "p", "average": average})
        assert Workload.of(settings, 1, "cpu", 0).averaged is averaged


def test_experts_that_are_computed_together_keep_less_for_each_token_and_a_layers_weights_for_a_moment():
    def activations(**work: Any) -> int:
        return ranks(MIXTURE, 4, {"expert": 2}, tokens=1000, recompute="none", fused=False, **work)[0].activations

    kept = 4 * 1000 * 2 * 2 * (6 - 2) * 6  # layers, tokens, bytes, chosen, numbers by width of the hidden layer
    weights = 4 // 2 * 8 * 6 * 2  # experts of the rank, hidden, width, bytes
    assert activations() - activations(grouped=True) == kept - 5 * weights
    assert activations(device="cpu") - activations(grouped=True, device="cpu") == kept - 3 * weights
    settings = {"model": "m", "queue": {"url": "redis://x", "run": "r"}, "steps": 1, "metrics_dir": "m"}
    settings |= {"checkpoint": {"dir": "c"}, "publish": {"dir": "p"}}
    for wanted in (True, False):
        learner = LearnerConfig.parse(settings | {"grouped_experts": wanted}, source="test")
        assert Workload.of(learner, 1, "cuda", 0).grouped is wanted
