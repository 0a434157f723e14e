"""What a run file's model means for records of routing: the gateway knows its experts, a dense model has none to replay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from learner.cli.run.run_file import Plan, RunFile
from runtime.routing_record import RoutingShape
from runtime.settings import SettingsError
from tests.tools.runs import DEMO

REPLAY, RETURN = "learner.replay_routing=true", "rollout.engine.return_routed_experts=true"
MIXTURE = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 16, "hidden_size": 16,
    "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
    "hidden_act": "silu", "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "tie_word_embeddings": False, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 8,
    "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [1],
}  # fmt: skip


def plan(model: Path, *overrides: str) -> Plan:
    (model / "config.json").write_text(json.dumps(MIXTURE))
    return RunFile.read(DEMO, [f"model.path={model}", *overrides]).resolve("redis://host:1/0", "r", 16)


def test_the_gateway_knows_the_models_experts_and_tells_fleets_what_is_wanted(tmp_path: Path):
    made = plan(tmp_path)
    assert made.gateway.limits.routing == RoutingShape(layers=(0, 2, 3), top_k=2, experts=8)
    assert not made.gateway.wanted.routed_experts
    replaying = plan(tmp_path, REPLAY, RETURN)
    assert replaying.learner.replay_routing
    assert replaying.gateway.wanted.routed_experts
    assert replaying.workers[0].engine.return_routed_experts
    assert replaying.evaluator is None or not replaying.evaluator.engine.return_routed_experts


@pytest.mark.parametrize(("override", "text"), [(REPLAY, "learner.replay_routing"), (RETURN, "return_routed_experts")])
def test_a_dense_model_is_refused_by_the_setting_that_wants_its_experts(override: str, text: str):
    run_file = RunFile.read(DEMO, [override])
    with pytest.raises(SettingsError, match=rf"{text} = true: the model is dense and has no experts: set it to false"):
        run_file.resolve("redis://host:1/0", "r", 16)
    assert RunFile.read(DEMO).resolve("redis://host:1/0", "r", 16).gateway.limits.routing is None


def test_experts_that_are_replayed_are_asked_for_where_this_machine_has_workers(tmp_path: Path):
    text = r"learner.replay_routing = true.*rollout.engine.return_routed_experts = false.*set both to true"
    with pytest.raises(SettingsError, match=text):
        plan(tmp_path, REPLAY)
    assert plan(tmp_path, REPLAY, "rollout.workers=0").learner.replay_routing  # fleets elsewhere send them
    assert plan(tmp_path, RETURN).workers[0].engine.return_routed_experts  # recorded, to be compared


def test_records_that_no_message_has_room_for_are_refused_before_any_is_made(tmp_path: Path):
    """8 responses of 7 tokens, 3 layers of 2 experts, a byte each: 336 bytes."""
    sizes = ["rollout.sampling.responses=8", "rollout.sampling.max_new_tokens=7", RETURN]
    assert plan(tmp_path, *sizes, "gateway.limits.max_message_bytes=336").gateway.limits.routing is not None
    with pytest.raises(
        SettingsError, match=r"8 responses of 7 tokens the experts take 336 bytes.*max_message_bytes = 335"
    ):
        plan(tmp_path, *sizes, "gateway.limits.max_message_bytes=335")
    assert plan(tmp_path, *sizes[:2], "gateway.limits.max_message_bytes=335")  # not asked for
