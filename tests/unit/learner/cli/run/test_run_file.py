"""The run file: what it derives for each process, and what it refuses before anything starts."""

from __future__ import annotations

import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

from learner.cli.run.run_directory import RunDirectory
from learner.cli.run.run_file import Plan, RunFile
from learner.config import AdmissionConfig
from rollout.data.prompt_order import PromptOrder
from runtime.memory import usable_memory
from runtime.settings import SettingsError
from tests.tools.runs import DEMO, REPOSITORY


def plan(*overrides: str) -> Plan:
    return RunFile.read(DEMO, overrides).resolve("redis://host:1/0", "demo-1", 16)


def refusal(*overrides: str) -> str:
    with pytest.raises(SettingsError) as caught:
        RunFile.read(DEMO, overrides)
    return str(caught.value)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.toml")), ids=lambda path: path.name)
def test_every_shipped_configuration_resolves(path: Path):
    run_file = RunFile.read(path)
    made = run_file.resolve("redis://host:1/0", "run", 1000)
    assert made.learner.steps == run_file.learner.steps


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.toml")), ids=lambda path: path.name)
def test_every_shipped_configuration_takes_a_preset_or_an_objective(path: Path):
    assert RunFile.read(path, ["learner.objective.preset=steady"]).learner.objective.name == "spo"
    assert RunFile.read(path, ["learner.objective.name=reinforce"]).learner.objective.name == "reinforce"


@pytest.mark.parametrize(
    ("variables", "objective", "average"),
    [(["PRESET=steady", "LR=1.6e-3"], "spo", 0.9), (["OBJECTIVE=grpo", "LR=1.6e-3"], "grpo", 0.0)],
)
def test_make_demo_hands_over_preset_objective_rate_and_staleness(variables: list[str], objective: str, average: float):
    words = ["make", "--dry-run", "demo", "STALENESS=16", *variables]
    printed = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True).stdout
    command = printed[printed.index("/leeway up ") :].replace("$((16 + 2))", "18")
    words = shlex.split(command.replace("\\\n", " "))
    overrides = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
    chosen = RunFile.read(REPOSITORY / words[2], overrides).learner
    assert (chosen.objective.name, chosen.publish.average) == (objective, average)
    assert (chosen.optimizer.lr, chosen.hold_staleness, chosen.optimizer.decay) == (1.6e-3, 16, "constant")


def test_the_demo_is_what_the_readme_says():
    made = plan()
    assert (made.learner.parallel.tensor, made.learner.parallel.pipeline) == (2, 2)
    assert (made.learner.groups_per_step, made.workers[0].sampling.responses) == (16, 8)
    assert (made.learner.optimizer.lr, made.learner.optimizer.clip_grad, made.learner.publish.every) == (4e-4, 1.0, 1)
    assert made.workers[0].sampling.temperature == 1.0


def test_what_processes_agree_on_is_written_once():
    made = plan("learner.groups_per_step=6", "learner.max_staleness=9", "rollout.sampling.responses=3")
    assert made.gateway.admission.groups_per_step == made.learner.groups_per_step == 6
    assert made.gateway.admission.max_staleness == made.learner.max_staleness == 9
    assert made.gateway.admission.expire_after == made.learner.expiry_bound == 72
    assert made.gateway.limits.group_size == (3, 3)
    assert made.workers[0].sampling.responses == 3


def test_the_gateway_takes_the_segments_that_fit_into_a_micro_batch():
    assert plan("learner.micro_batch_tokens=777").gateway.limits.max_response_context_tokens == 777


@pytest.mark.parametrize(
    ("overrides", "taken"),
    [
        (["learner.objective.name=asympo"], True),
        (["learner.objective.name=grpo"], False),
        (["learner.objective.name=asympo", "learner.behaviour.drift_every=10"], False),
    ],
)
def test_truncated_sampling_is_taken_where_nothing_is_recomputed(overrides: list[str], taken: bool):
    assert plan(*overrides).gateway.limits.truncated_sampling is taken
    for truncation in ("top_p=0.9", "top_k=5", "min_p=0.1"):
        given = [*overrides, f"rollout.sampling.{truncation}"]
        if taken:
            assert plan(*given).gateway.limits.truncated_sampling
        else:
            text = refusal(*given)
            assert f"rollout.sampling.{truncation.replace('=', ' = ')}" in text
            assert f"{overrides[-1].replace('=', ' = ').replace('grpo', repr('grpo'))} the learner recomputes" in text
    assert plan(*overrides, "rollout.sampling.top_p=1.0", "rollout.sampling.min_p=0.0")


def test_dr_grpo_divides_by_the_tokens_that_may_be_generated():
    overrides = ("learner.objective.name=dr_grpo", "rollout.sampling.max_new_tokens=33")
    assert RunFile.read(DEMO, overrides).learner.objective.dr_grpo_length is None
    assert plan(*overrides).learner.objective.dr_grpo_length == 33
    assert plan(*overrides, "learner.objective.dr_grpo_length=12").learner.objective.dr_grpo_length == 12
    assert plan("learner.objective.name=grpo").learner.objective.dr_grpo_length is None


def test_fleets_are_told_of_adapters_where_versions_are_adapters():
    lora = ["learner.lora.rank=8", "learner.lora.alpha=16", 'learner.lora.targets=["v_proj", "q_proj"]']
    told = plan(*lora, "learner.publish.form=adapter").gateway.adapters
    assert told is not None
    assert (told.rank, told.targets) == (8, ("q_proj", "v_proj"))
    assert plan(*lora).gateway.adapters is None
    assert plan().gateway.adapters is None


def test_adapters_have_no_deltas():
    lora = ["learner.lora.rank=8", "learner.lora.alpha=16", "learner.publish.form=adapter"]
    with pytest.raises(SettingsError, match=r"publish\.full_every = 4 with publish\.form"):
        plan(*lora, "learner.publish.full_every=4")


def test_what_is_wanted_of_fleets_is_what_the_gateway_takes():
    wanted = plan("gateway.wanted.temperature=0.7", "gateway.wanted.prompt_format=chat").gateway.wanted
    assert (wanted.temperature, wanted.prompt_format, wanted.group_size) == (0.7, "chat", None)
    for setting, text in (
        ("temperature=11", "wanted.temperature = 11 is outside 0.05 to 10, as limits.temperature_range"),
        ("group_size=9", "wanted.group_size = 9 is outside 8 to 8"),
        ("max_new_tokens=65537", "wanted.max_new_tokens = 65537 is outside 1 to 65536"),
    ):
        with pytest.raises(SettingsError, match=text):
            plan(f"gateway.wanted.{setting}")


def test_the_queue_fits_into_this_machines_memory():
    most = RunFile.read(DEMO).queue.redis_memory
    assert most == usable_memory() // 4
    assert plan().gateway.admission.max_queued_bytes == most // 2
    assert plan("queue.memory_bytes=1000000").gateway.admission.max_queued_bytes == 500_000
    assert plan("gateway.admission.max_queued_bytes=7000").gateway.admission.max_queued_bytes == 7000
    elsewhere = plan("queue.url=redis://host:1/0")
    assert elsewhere.gateway.admission.max_queued_bytes == AdmissionConfig().max_queued_bytes


def test_paths_addresses_and_seed_are_derived(tmp_path: Path):
    made = plan(
        f"run.dir={tmp_path}", "run.seed=5", "gateway.listen=127.0.0.1:7", "gateway.limits.max_message_bytes=99"
    )
    worker = made.workers[0]
    assert (made.learner.seed, worker.seed) == (5, 5)
    assert made.gateway.queue == made.learner.queue
    assert (made.learner.queue.url, made.learner.queue.run) == ("redis://host:1/0", "demo-1")
    assert made.gateway.limits.vocab_size == 16
    assert made.learner.model == worker.model == tmp_path / "model"
    assert made.learner.warmup is not None
    assert made.learner.warmup.demonstrations == tmp_path / "demonstrations.jsonl"
    assert (made.learner.checkpoint.dir, made.learner.publish.dir) == (tmp_path / "checkpoints", tmp_path / "weights")
    assert (worker.gateway, worker.max_message_bytes) == ("127.0.0.1:7", 99)
    assert worker.token_file == tmp_path / "secrets" / "local.token"
    assert made.gateway.identities_file == tmp_path / "identities.json"


def test_rollouts_are_recorded_in_the_runs_directory(tmp_path: Path):
    made = plan(f"run.dir={tmp_path}", "rollout.record.every_s=0", 'rollout.record.mask=["canary-[0-9]+"]').workers[0]
    assert made.record_dir == RunDirectory.at(tmp_path).rollouts == tmp_path / "rollouts"
    assert (made.record.every_s, made.record.mask) == (0, ("canary-[0-9]+",))
    assert "unknown key 'rollout.record.dir'" in refusal("rollout.record.dir=elsewhere")
    with pytest.raises(SettingsError, match=r"rollout: record\.mask.*is no regular expression"):
        plan('rollout.record.mask=["("]')


def test_workers_share_the_prompts_and_not_the_ports():
    workers = plan("rollout.workers=3", "rollout.engine.count=2", "rollout.engine.base_port=100").workers
    assert [worker.name for worker in workers] == ["worker-0", "worker-1", "worker-2"]
    starts = [PromptOrder(worker.name, 1000).index(0) for worker in workers]
    assert starts == [0, 500, 250]
    assert [worker.engine.base_port for worker in workers] == [100, 102, 104]


def test_run_json_reads_back_from_wherever_the_directory_lies(tmp_path: Path):
    run_file = RunFile.read(DEMO, [f"run.dir={tmp_path / 'a'}", "learner.steps=7"]).absolute()
    run_file.write(tmp_path / "a" / "run.json")
    assert RunFile.read(tmp_path / "a") == run_file
    (tmp_path / "a").rename(tmp_path / "b")
    moved = RunFile.read(tmp_path / "b", ["learner.steps=8"])
    assert moved.directory.root == tmp_path / "b"
    assert moved.learner.steps == 8


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learner.stepz=3", "unknown key 'learner.stepz' (value 3); did you mean 'learner.steps'?"),
        ("learner.optimizer.learning_rate=3", "known here: learner.optimizer.betas"),
        ("learner.seed=3", "unknown key 'learner.seed' (value 3); did you mean 'run.seed'?"),
        ("rollout.sampling.temprature=2", "did you mean 'rollout.sampling.temperature'?"),
        ("learner.metrics_dir=x", "unknown key 'learner.metrics_dir'"),
        ("gateway.limits.vocab_size=3", "unknown key 'gateway.limits.vocab_size'"),
        ("learner.steps=many", "learner.steps = 'many': Input should be a valid integer"),
        ("queue.url=http://x", "queue.url = 'http://x': "),
        ("learner.hold_staleness=5", "learner.hold_staleness = 5 is above learner.max_staleness = 4"),
        ("learner.expire_after=3", "learner.expire_after = 3 is below learner.max_staleness = 4: groups would expire"),
        ("learner.late=never", "learner.late = 'never': Input should be 'train' or 'expire'"),
        ("learner.processes=6", "learner.processes = 6 is not a multiple of 4, as learner.parallel needs"),
        ("rollout.sampling.responses=1", "rollout.sampling.responses = 1: an advantage compares"),
        ("rollout.sampling.max_new_tokens=65537", "is above gateway.limits.max_response_tokens = 65536"),
        ("run.name=a/b", "run.name = 'a/b'"),
    ],
)
def test_mistakes_name_the_key_the_value_and_the_remedy(override: str, message: str):
    text = refusal(override)
    assert message in text
    assert text.startswith(str(DEMO))


def test_the_demo_file_is_commented_for_people():
    text = DEMO.read_text()
    assert text.startswith("# ")
    assert set(tomllib.loads(text)) == set(RunFile.model_fields)


def test_trust_limits_and_quotas_reach_the_processes(tmp_path: Path):
    tls = ["gateway.tls.certificate=g.crt", "gateway.tls.key=g.key", "rollout.tls.ca=ca.pem"]
    quotas = [
        "gateway.connections.max_streams=7",
        "gateway.admission.quota.groups_per_s=2.5",
        "gateway.admission.quotas.rented.bytes_per_s=1e6",
        "learner.weights.rented=3",
    ]
    redis = ["queue.password_file=pw", "queue.tls.ca=redis.pem", "queue.url=rediss://u@h:1/0"]
    made = plan(*tls, *quotas, *redis)
    gateway, worker = made.gateway, made.workers[0]
    assert gateway.tls is not None
    assert worker.tls is not None
    assert (gateway.tls.certificate, worker.tls.ca) == (Path("g.crt"), Path("ca.pem"))
    assert gateway.connections.max_streams == 7
    assert gateway.admission.quota.groups_per_s == 2.5
    assert gateway.admission.quotas["rented"].bytes_per_s == 1e6
    assert gateway.admission.weights == made.learner.weights == {"rented": 3.0}
    assert gateway.queue.password_file == made.learner.queue.password_file == Path("pw")
    assert gateway.queue.tls.ca == Path("redis.pem")


def test_credentials_are_found_from_any_directory(tmp_path: Path):
    settings = ["gateway.tls.certificate=g.crt", "gateway.tls.key=g.key", "rollout.tls.ca=ca.pem"]
    run_file = RunFile.read(DEMO, [*settings, "queue.password_file=pw", f"run.dir={tmp_path}"]).absolute()
    run_file.write(tmp_path / "run.json")
    made = RunFile.read(tmp_path).resolve("redis://host:1/0", "demo-1", 16)
    assert made.gateway.tls is not None
    assert made.workers[0].tls is not None
    paths = [
        made.gateway.tls.certificate,
        made.gateway.tls.key,
        made.workers[0].tls.ca,
        made.gateway.queue.password_file,
    ]
    assert paths == [Path.cwd() / name for name in ("g.crt", "g.key", "ca.pem", "pw")]


def test_one_half_of_tls_is_refused():
    server = ("gateway.tls.certificate=g.crt", "gateway.tls.key=g.key")
    assert "gateway.tls is set and rollout.tls is not" in refusal(*server)
    assert "rollout.tls is set and gateway.tls is not" in refusal("rollout.tls.ca=ca.pem")
    both = (*server, "gateway.tls.client_ca=ca.pem", "rollout.tls.ca=ca.pem")
    assert "set rollout.tls.certificate and rollout.tls.key too" in refusal(*both)


def test_a_run_without_workers_is_one_for_fleets_elsewhere():
    made = plan("rollout.workers=0")
    assert made.workers == []
    assert made.gateway.limits.group_size == (8, 8)
    assert "workers = -1" in refusal("rollout.workers=-1")


@pytest.mark.parametrize("workers", [0, 2])
def test_demonstrations_come_from_the_task_whether_there_are_workers_or_not(workers: int):
    demonstrator = plan(f"rollout.workers={workers}", "rollout.task.name=add").demonstrator
    assert demonstrator is not None
    assert demonstrator.task == plan("rollout.task.name=add").workers[0].task
    assert demonstrator.model == plan().workers[0].model


def test_a_run_without_warm_start_has_no_demonstrator():
    values = tomllib.loads(DEMO.read_text())
    del values["learner"]["warmup"]
    assert RunFile.parse(values, "test").resolve("redis://host:1/0", "demo-1", 16).demonstrator is None


def test_an_evaluator_has_its_own_identity_and_engine_and_the_held_out_prompts_of_the_run():
    made = plan("rollout.engine.base_port=31000", "rollout.engine.count=2", 'rollout.engine.arguments=["--x"]')
    evaluator = made.evaluator
    assert evaluator is not None
    assert evaluator.task == made.workers[0].task
    assert (evaluator.engine.count, evaluator.engine.base_port, evaluator.engine.arguments) == (1, 30_900, ["--x"])
    assert evaluator.token_file != made.workers[0].token_file
    assert (evaluator.model, evaluator.allowed_uris) == (made.workers[0].model, made.workers[0].allowed_uris)
    assert [(one.name, one.samples) for one in evaluator.sampling] == [("greedy", 1), ("sampled", 4)]
    assert evaluator.worker(evaluator.task[0], evaluator.sampling[0]).sampling.temperature == 0.0
    assert evaluator.worker(evaluator.task[0], evaluator.sampling[1]).sampling.max_new_tokens == 7
    assert made.learner.publish.best == "sort:greedy:mean@1"
    assert plan('eval.best="sort:sampled:pass@4"').learner.publish.best == "sort:sampled:pass@4"


def without_eval() -> dict:
    values = tomllib.loads(DEMO.read_text())
    del values["eval"]
    return values


def test_a_run_without_the_section_evaluates_nothing():
    made = RunFile.parse(without_eval(), "test").resolve("redis://host:1/0", "demo-1", 16)
    assert (made.evaluator, made.learner.publish.best) == (None, None)


def test_a_test_split_is_evaluated_beside_training():
    task = {"name": "gsm8k", "options": {"path": "test.jsonl"}, "label": "gsm8k-test"}
    made = RunFile.parse(without_eval() | {"eval": {"task": task}}, "test").resolve("redis://host:1/0", "demo-1", 16)
    assert made.evaluator is not None
    assert [one.label for one in made.evaluator.task] == ["gsm8k-test"]


@pytest.mark.parametrize(
    ("section", "refused"),
    [
        ({}, "set rollout.task.held_out"),
        ({"task": {"name": "sort"}}, "would evaluate prompts that are trained on"),
        ({"task": {"name": "sort", "held_out": 0.2}}, "would evaluate prompts that are trained on"),
        ({"task": [{"name": "add"}, {"name": "add"}]}, "two tasks to evaluate are called 'add'"),
        ({"sampling": [{}, {"samples": 2}]}, "two samplings are called 'greedy'"),
        ({"at_end": True}, "at_end = true with every = 10"),
        ({"sampling": [{"temperature": -1}]}, "temperature"),
    ],
)
def test_an_evaluation_that_would_mean_nothing_is_refused(section: dict, refused: str):
    values = without_eval()
    values["rollout"]["task"]["held_out"] = 0.1 if "held_out" in str(section) else 0.0
    with pytest.raises(SettingsError, match=refused):
        RunFile.parse(values | {"eval": section}, "test")


def test_the_workers_servers_are_not_used_for_evaluation():
    urls = 'rollout.engine.urls=["http://a:1"]'
    assert "[eval] needs an engine of its own" in refusal(urls)
    assert "is one of rollout.engine.urls too" in refusal(urls, 'eval.engine.urls=["http://a:1"]')
    evaluator = plan(urls, 'eval.engine.urls=["http://b:1"]').evaluator
    assert evaluator is not None
    assert evaluator.engine.urls == ["http://b:1"]
