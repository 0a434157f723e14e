"""Every layout computes what plain Hugging Face computes in one process: loss, gradient, Adam's steps, exported weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from learner.config import ParallelConfig
from learner.config.memory import memory_by_stage
from learner.config.workload import Workload
from tests.parallel.cells import PADDED
from tests.parallel.conftest import BIAS_RATE

LAYOUTS = {  # name -> (ranks, model, parallel)
    "tp1_llama": (1, "llama", {}),
    "fused_qwen2_tied": (1, "qwen2", {}),
    "fused_qwen3": (1, "qwen3", {}),
    "fused_tp2_ep2_moe": (2, "moe", {"tensor": 2, "sequence": True, "expert": 2}),
    "tp2_qwen3": (2, "qwen3", {"tensor": 2}),
    "pp2_qwen2_tied": (2, "qwen2", {"pipeline": 2}),
    "tp2_sequence_qwen2": (2, "qwen2", {"tensor": 2, "sequence": True}),
    "tp2_llama": (2, "llama", {"tensor": 2}),
    "tp2_pp2_qwen2_tied": (4, "qwen2", {"tensor": 2, "pipeline": 2}),
    "tp2_pp2_sequence_qwen3": (4, "qwen3", {"tensor": 2, "pipeline": 2, "sequence": True}),
    "tp2_dp2_llama": (4, "llama", {"tensor": 2}),
    "pp2_dp2_qwen3": (4, "qwen3", {"pipeline": 2}),
    "cp2_qwen3": (2, "qwen3", {"context": 2}),
    "tp2_ep2_moe": (2, "moe", {"tensor": 2, "sequence": True, "expert": 2}),
    "dp4_ep2_glm": (4, "glm", {"expert": 2}),
    "pp2_cp2_ep2_moe": (4, "moe", {"pipeline": 2, "context": 2, "expert": 2}),
}
# Most of each row is padding, and every layer is computed again: tokens of experts are counted once, and without padding.
PADDED_AND_RECOMPUTED = {"pp2_cp2_ep2_moe": {"micro_batches": PADDED, "recompute": "full"}}
# The others compute a layer's experts together, as is the default on a CPU.
ONE_AFTER_ANOTHER = {"tp2_ep2_moe": {"grouped_experts": False}}
PLANTED = "model.layers.1.mlp.gate_proj.weight"


@pytest.fixture(scope="module")
def outcomes(references, launch, tmp_path_factory) -> dict[str, Any]:
    """All cases, in one launch per number of ranks: starting costs more than running."""
    checkpoint = tmp_path_factory.mktemp("checkpoints")
    planted = _planted(references["qwen3"].directory, tmp_path_factory.mktemp("planted") / "qwen3")
    by_world: dict[int, list[dict[str, Any]]] = {1: [], 2: [], 4: []}

    def add(world: int, name: str, reference_name: str, parallel: dict[str, Any], **more: Any) -> None:
        reference = references[reference_name]
        spec = {"name": name, "model": str(reference.directory), "sequences": str(reference.sequences)}
        by_world[world].append({**spec, "parallel": parallel, "run": "equivalence", **more})

    for name, (world, model, parallel) in LAYOUTS.items():
        more = {"micro_batches": 1 if name == "tp2_llama" else 2} | PADDED_AND_RECOMPUTED.get(name, {})
        more |= ONE_AFTER_ANOTHER.get(name, {}) | ({"bias_rate": BIAS_RATE} if model == "glm" else {})
        add(world, name, model, parallel, fused=name.startswith("fused"), **more)
    both = {"tensor": 2, "pipeline": 2}
    add(2, "planted", "qwen3", {"tensor": 2}, model=str(planted))
    add(4, "guard_dp2", "llama", {"tensor": 2}, run="guard")
    add(4, "guard_tp2_pp2", "qwen2", both, run="guard")
    add(4, "bf16", "qwen3", both, dtype="bfloat16")
    add(4, "sparse", "llama", {"tensor": 2}, run="sparse")
    add(4, "counts_pp4", "qwen3", {"pipeline": 4}, run="counts")
    add(2, "counts_vpp", "qwen3", {"pipeline": 2, "virtual_pipeline": 2}, run="counts")
    add(2, "ragged", "qwen2", {"tensor": 2, "sequence": True}, run="ragged")
    add(4, "talk", "qwen2", both, run="talk")
    add(2, "slow_reader", "qwen2", {}, run="slow_reader", checkpoint=str(checkpoint / "slow"), limit_s=4)
    add(4, "save", "qwen3", both, run="save", checkpoint=str(checkpoint / "step_3"))
    add(4, "save_bf16", "qwen2", both, run="save", dtype="bfloat16", checkpoint=str(checkpoint / "bf16"))
    add(4, "resume_bf16", "qwen2", both, run="resume", dtype="bfloat16", checkpoint=str(checkpoint / "bf16"))
    add(4, "save_dp4", "qwen3", {}, run="save", checkpoint=str(checkpoint / "dp4"))
    add(4, "resume_dp4_as_tp2_pp2", "qwen3", both, run="resume", checkpoint=str(checkpoint / "dp4"))
    add(2, "save_bf16_dp2", "qwen2", {}, run="save", dtype="bfloat16", checkpoint=str(checkpoint / "bf16_dp2"))
    add(2, "resume_bf16_dp2", "qwen2", {}, run="resume", dtype="bfloat16", checkpoint=str(checkpoint / "bf16_dp2"))
    add(2, "resume_dp4_as_dp2", "qwen3", {}, run="resume", checkpoint=str(checkpoint / "dp4"))
    add(4, "unwritable", "qwen3", both, run="unwritable", checkpoint=str(checkpoint))
    add(4, "resume_tp2_dp2", "qwen3", {"tensor": 2}, run="resume", checkpoint=str(checkpoint / "step_3"))
    add(1, "resume_tp1", "qwen3", {}, run="resume", checkpoint=str(checkpoint / "step_3"))
    add(2, "bf16_cp2", "qwen3", {"context": 2}, dtype="bfloat16")
    add(2, "sparse_cp2", "llama", {"context": 2}, run="sparse")
    add(2, "save_cp2", "qwen3", {"context": 2}, run="save", checkpoint=str(checkpoint / "cp2"))
    add(4, "resume_cp2_dp2", "qwen3", {"context": 2}, run="resume", checkpoint=str(checkpoint / "step_3"))
    add(2, "resume_cp2_as_pp2", "qwen3", {"pipeline": 2}, run="resume", checkpoint=str(checkpoint / "cp2"))
    shared, sharded = {"pipeline": 2, "expert": 2}, {"tensor": 2, "sequence": True}
    add(4, "bf16_moe", "moe", shared, dtype="bfloat16")
    add(4, "sparse_moe", "moe", {"expert": 2}, run="sparse")
    balanced = {"bias_rate": BIAS_RATE, "checkpoint": str(checkpoint / "ep2")}
    add(4, "save_ep2", "glm", shared, run="save", **balanced)
    add(4, "save_ep1", "moe", sharded, run="save", checkpoint=str(checkpoint / "ep1"))
    add(4, "resume_ep2_as_ep4", "glm", sharded | {"expert": 4}, run="resume", **balanced)
    add(2, "resume_ep1_as_ep2", "moe", {"expert": 2}, run="resume", checkpoint=str(checkpoint / "ep1"))
    add(1, "resume_ep2_as_ep1", "glm", {}, run="resume", **balanced)
    interleaved = {"pipeline": 2, "virtual_pipeline": 2}
    add(2, "resume_vpp", "qwen3", interleaved, run="resume", checkpoint=str(checkpoint / "step_3"))
    done: dict[str, Any] = {}
    for world in (4, 2, 1):
        done |= launch(world, by_world[world])
    return done


def test_loss_norm_and_entropy(outcomes, references):
    for name, (_, model, _) in LAYOUTS.items():
        values, reference = outcomes[name].values, references[model]
        assert values["losses"] == pytest.approx(reference.losses[:3], abs=1e-6), name
        assert values["evaluated"]["loss"] == pytest.approx(reference.losses[0], abs=1e-6), name
        assert values["norm"] == pytest.approx(reference.norm, rel=1e-5), name
        assert values["metrics"]["entropy_sum"] == pytest.approx(reference.entropy, rel=1e-5), name


def test_gradient_of_every_tensor(outcomes, references):
    for name, (world, model, parallel) in LAYOUTS.items():
        if world > parallel.get("tensor", 1) * parallel.get("pipeline", 1):
            continue  # the gradient is scattered over the data ranks; the trained weights below cover it
        gradient, expected = outcomes[name].tensors("gradient"), references[model].gradient
        assert gradient.keys() == expected.keys(), (name, parallel)
        for key, value in expected.items():
            assert _relative(gradient[key], value) < 1e-5, (name, key)


def test_every_token_of_every_expert_is_counted_once(outcomes, references):
    for name, (_, model, _) in LAYOUTS.items():
        expected = references[model].experts
        assert outcomes[name].values["experts"] == expected, name
        assert outcomes[name].values["together"] == (model in ("moe", "glm") and name not in ONE_AFTER_ANOTHER), name
        assert all(len(set(experts)) > 1 for experts in expected.values()), "an even load would show no mistake"
    assert len(references["moe"].experts) == 4
    assert references["glm"].experts.keys() == {"1", "2", "3"}  # the first layer is dense


def test_planted_error_is_caught(outcomes, references):
    """1% on one weight: the comparison above would notice."""
    gradient, expected = outcomes["planted"].tensors("gradient"), references["qwen3"].gradient
    assert max(_relative(gradient[key], value) for key, value in expected.items()) > 1e-3


def test_three_steps_of_adam(outcomes, references):
    for name, (_, model, _) in LAYOUTS.items():
        trained, expected = outcomes[name].tensors("trained"), references[model].trained
        assert trained.keys() == expected.keys(), name
        for key, value in expected.items():
            moved = (value - references[model].initial[key]).abs().max()
            assert moved > 1e-3, (name, key)
            assert (trained[key] - value).abs().max() < 0.05 * moved, (name, key)


def test_round_trip_is_bit_exact(outcomes, references):
    for name, (_, model, _) in LAYOUTS.items():
        initial, expected = outcomes[name].tensors("initial"), references[model].initial
        assert initial.keys() == expected.keys(), name
        for key, value in expected.items():
            assert torch.equal(initial[key], value), (name, key)


def test_every_rank_exports_its_share(outcomes):
    """No tensor- or data-parallel rank exports more than its equal share of the stage and one parameter."""
    for name, (world, _, parallel) in LAYOUTS.items():
        stages = parallel.get("pipeline", 1)
        sizes = [[tensor.nbytes for tensor in part.values()] for part in outcomes[name].by_rank("initial")]
        assert len(sizes) == world, name  # none is left out
        each = world // stages
        for stage in range(stages):
            ours = sizes[stage * each : (stage + 1) * each]
            largest = 2 * max(max(part) for part in ours)  # the two halves of a gated MLP are one parameter
            assert max(map(sum, ours)) <= sum(map(sum, ours)) / each + largest, name


def test_exported_weights_run_in_hugging_face(outcomes, references, tmp_path: Path):
    for name in ("tp2_pp2_qwen2_tied", "tp2_pp2_sequence_qwen3", "tp2_dp2_llama"):
        reference = references[LAYOUTS[name][1]]
        directory = tmp_path / name
        shutil.copytree(reference.directory, directory)
        save_file(outcomes[name].tensors("trained"), directory / "model.safetensors", metadata={"format": "pt"})
        exported = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        plain = transformers.AutoModelForCausalLM.from_pretrained(reference.directory, dtype=torch.float32)
        tokens = torch.arange(40)[None] % 96
        with torch.no_grad():
            start = plain(tokens).logits
            plain.load_state_dict(reference.trained, strict=False)  # a tied output layer is no parameter of its own
            expected = plain(tokens).logits
            assert (exported(tokens).logits - expected).abs().max() < 1e-4, name
            assert (expected - start).abs().max() > 1e-2, name


def test_guard_leaves_weights_and_moments_alone(outcomes, references):
    for name, model in (("guard_dp2", "llama"), ("guard_tp2_pp2", "qwen2")):
        values, reference = outcomes[name].values, references[model]
        assert values["losses"] == pytest.approx(reference.losses[:3], abs=1e-6), name
        loss, gradient, mute = values["skipped"]
        assert "non-finite loss" in loss
        assert "non-finite gradient" in gradient
        assert mute == "no token carries loss"
        search, count = values["search"], len(values["search"]["by_hand"])
        assert search["found"] == [count], name
        assert search["left_out"] == pytest.approx(search["packed_anew"], rel=1e-4, abs=1e-7), name
        assert search["left_out"][2:] == pytest.approx(search["by_hand"], rel=1e-4), name
        assert search["last"] == 0


def test_bfloat16_is_near(outcomes, references):
    """fp32 master weights and gradients around bf16 arithmetic, whose relative precision is 2^-8."""
    reference = references["qwen3"]
    for name, model in (("bf16", "qwen3"), ("bf16_cp2", "qwen3"), ("bf16_moe", "moe")):
        assert outcomes[name].values["losses"] == pytest.approx(references[model].losses[:3], abs=2e-2), name
    gradient, trained = outcomes["bf16"].tensors("gradient"), outcomes["bf16"].tensors("trained")
    assert all(tensor.dtype == torch.bfloat16 for tensor in trained.values())
    assert all(_relative(gradient[key], value) < 0.1 for key, value in reference.gradient.items())


def test_empty_micro_batches(outcomes):
    for name in ("sparse", "sparse_cp2", "sparse_moe"):
        values = outcomes[name].values
        assert values["losses"][0] == pytest.approx(values["losses"][1], abs=1e-6), name
        assert values["norms"][0] == pytest.approx(values["norms"][1], rel=1e-5), name
        assert values["skipped"] == [None, None], name
        assert values["norms"][0] > 0, name


def test_stages_agree_on_the_length_of_every_micro_batch(outcomes, references):
    """With either schedule, and any number of micro-batches, stages know the next tensor's length without asking."""
    for name in ("counts_pp4", "counts_vpp"):
        values, reference = outcomes[name].values, references["qwen3"]
        assert values["losses"] == pytest.approx([reference.losses[0]] * len(values["losses"]), abs=1e-6), name
        assert values["norms"] == pytest.approx([reference.norm] * len(values["norms"]), rel=1e-5), name


def test_rows_that_sequence_parallelism_cannot_split(outcomes):
    assert "a micro-batch of 11 tokens is not divisible by 2" in outcomes["ragged"].values["error"]


def test_messages_of_rank_zero_reach_every_rank(outcomes):
    assert outcomes["talk"].values == {"good": 4}


def test_reading_a_checkpoint_may_take_longer_than_a_collective(outcomes):
    assert outcomes["slow_reader"].values == {"found": "step_00000003_e0001", "waited": 2, "agreed": [5]}


def test_save_and_resume_under_other_layouts(outcomes, references):
    """The snapshot is of step 3 although training went on while it was written; resumed runs equal the undisturbed one."""
    losses = references["qwen3"].losses
    saved = outcomes["save"].values
    assert saved["losses"] == pytest.approx(losses, abs=1e-6)
    assert saved["durable"] is True
    assert saved["idle"] is False
    assert saved["true"] is True
    assert [name for name in saved["digests"] if name.startswith("rank_")] == [f"rank_{r:05d}.pt" for r in range(4)]
    assert sum(name.endswith(".distcp") for name in saved["digests"]) == 4
    assert abs(losses[3] - losses[4]) > 1e-4  # else the comparison says nothing
    assert outcomes["save_cp2"].values["losses"] == pytest.approx(losses, abs=1e-6)
    for name in ("resume_tp1", "resume_tp2_dp2", "resume_vpp", "resume_cp2_dp2", "resume_cp2_as_pp2"):
        assert outcomes[name].values["losses"] == pytest.approx(losses[3:], abs=1e-6), name
    assert outcomes["save_dp4"].values["losses"] == pytest.approx(losses, abs=1e-6)
    for name in ("resume_dp4_as_tp2_pp2", "resume_dp4_as_dp2"):
        assert outcomes[name].values["losses"] == pytest.approx(losses[3:], abs=1e-6), name


def test_every_rank_copies_and_writes_its_share_of_a_checkpoint(outcomes, references):
    """Data- and context-parallel ranks have equal weights; what each copies to host memory is what `leeway doctor` says."""
    for name, model, layout, world, dtype in (
        ("save", "qwen3", {"tensor": 2, "pipeline": 2}, 4, "float32"),
        ("save_dp4", "qwen3", {}, 4, "float32"),
        ("save_bf16_dp2", "qwen2", {}, 2, "bfloat16"),
        ("save_cp2", "qwen3", {"context": 2}, 2, "float32"),
    ):
        values, sizes = outcomes[name].values, json.loads((references[model].directory / "config.json").read_text())
        work = Workload(ParallelConfig.parse(layout, source=name), world, dtype=dtype)
        stages = [stage.checkpoint for stage in memory_by_stage(sizes, work)]
        for rank, copied in enumerate(values["copied"]):
            expected = stages[rank * len(stages) // world]
            assert 0.9 * expected < copied < 1.05 * expected, (name, rank, values["copied"], stages)
            assert values["digests"][f"__{rank}_0.distcp"] > copied, (name, rank)


def test_experts_are_resumed_wherever_they_go(outcomes, references):
    """Experts may be distributed over data-parallel ranks, over tensor-parallel ones or over none, and resumed as another.

    Biases that balance the experts of sigmoid routers move alike on one rank and on four, and are resumed where they were.
    """
    for saved, model, resumed in (
        ("save_ep2", "glm", ("resume_ep2_as_ep4", "resume_ep2_as_ep1")),
        ("save_ep1", "moe", ("resume_ep1_as_ep2",)),
    ):
        losses = references[model].losses
        assert abs(losses[3] - losses[4]) > 1e-3, model  # else the comparison says nothing
        assert outcomes[saved].values["losses"] == pytest.approx(losses, abs=1e-6), saved
        for name in resumed:
            assert outcomes[name].values["losses"] == pytest.approx(losses[3:], abs=1e-6), name


def test_bfloat16_resumes_from_its_fp32_weights(outcomes):
    """Under the same layout, where bf16 rounds alike: a lost fp32 weight or moment would show."""
    for layout in ("bf16", "bf16_dp2"):
        saved, resumed = outcomes[f"save_{layout}"].values["losses"], outcomes[f"resume_{layout}"].values["losses"]
        assert resumed == pytest.approx(saved[3:], abs=1e-5), layout


def test_random_states_come_back_under_the_same_layout_only(outcomes):
    assert outcomes["resume_bf16"].values["drawn_again"] == 4
    assert outcomes["resume_tp2_dp2"].values["drawn_again"] == 0


def test_failed_save_is_seen_by_every_rank(outcomes, references):
    values = outcomes["unwritable"].values
    assert values["raised"] == 4
    assert values["loss"] == pytest.approx(references["qwen3"].losses[1], abs=1e-6)


def _planted(source: Path, directory: Path) -> Path:
    shutil.copytree(source, directory)
    weights = load_file(directory / "model.safetensors")
    weights[PLANTED] *= 1.01
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def _relative(value: torch.Tensor, expected: torch.Tensor) -> float:
    return ((value - expected).norm() / expected.norm()).item()
