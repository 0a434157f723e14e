"""Versions from elsewhere: which location is taken, what is tried again, and one copy for all workers of a machine."""

from __future__ import annotations

import contextlib
import errno
import http.server
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from leeway.v1 import rollout_pb2
from rollout.data.demo_model import DemoShape, write_model
from rollout.versions.manifest import FetchError, VersionError
from rollout.versions.verifier import Verifier
from runtime.version_format.names import version_name, versions_on_disk
from tests.tools.published import flip, publish

ROOT = Path(__file__).parents[4]
# Arguments: model, allowed URI, cache, bytes of the announcement in hexadecimal. Prints the version's directory.
WORKER = """
import sys
from pathlib import Path
from leeway.v1 import rollout_pb2
from rollout.versions.verifier import Verifier
model, allowed, cache, policy = sys.argv[1:]
print("ready", flush=True)
print(Verifier(Path(model), [allowed], Path(cache)).verify(rollout_pb2.Policy.FromString(bytes.fromhex(policy))).path)
"""


class Site:
    """A learner's disk, a store that has the same versions, and a worker's model and cache."""

    def __init__(self, root: Path, url: str) -> None:
        self.disk = root / "weights"
        self.url = url
        self.cache = root / "cache"
        self.model = root / "model"
        write_model(self.model, 0, DemoShape(layers=1, hidden=32, ffn=32))
        self.store, self.path = fsspec.core.url_to_fs(url)

    def publish(self, version: int) -> rollout_pb2.Policy:
        """Makes a version, on the disk and in the store; returns its announcement."""
        policy = publish(self.model, self.disk, version)
        name = version_name(version)
        self.store.put(str(self.disk / name), f"{self.path}/{name}", recursive=True)
        policy.locations.add(name="local", uri=policy.uri)
        policy.uri = f"{self.url}/{name}"
        policy.locations.add(name="mirror", uri=policy.uri)
        return policy

    def verifier(self, *allowed: str) -> Verifier:
        return Verifier(self.model, allowed or [self.url], self.cache)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    name = f"bucket-{uuid.uuid4().hex}"
    yield Site(tmp_path, f"memory://{name}/run")
    fsspec.filesystem("memory").rm(f"/{name}", recursive=True)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read from the store, in their order."""
    names: list[str] = []
    get_file = MemoryFileSystem.get_file

    def counted(self: Any, rpath: str, *args: Any, **kwargs: Any) -> Any:
        names.append(Path(rpath).name)
        return get_file(self, rpath, *args, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "get_file", counted)
    return names


def test_the_learners_disk_comes_first_if_it_is_there(site: Site, asked: list[str]):
    policy = site.publish(1)
    found = site.verifier(site.url, site.disk.as_uri()).verify(policy)
    assert (found.path, asked) == (site.disk / "weight_v000001", [])


def test_without_the_learners_disk_the_mirror_is_read(site: Site, asked: list[str]):
    policy = site.publish(1)
    site.disk.rename(site.disk.with_name("elsewhere"))
    found = site.verifier(site.url, site.disk.as_uri()).verify(policy)
    assert found.path == site.cache / "downloads" / "weight_v000001"
    assert "model.safetensors" in asked


def test_the_place_that_a_fleet_prefers_comes_before_all_others(site: Site, asked: list[str]):
    policy = site.publish(1)
    policy.locations.add(name="oslo", uri="s3://oslo/run/weight_v000001")  # which this fleet may not read
    allowed = [site.url, site.disk.as_uri()]
    for wanted, local in ((["tokyo", "oslo"], True), (["local", "mirror"], True), (["oslo", "mirror"], False)):
        found = Verifier(site.model, allowed, site.cache, wanted=wanted).verify(policy)
        assert (found.path == site.disk / "weight_v000001") is local, wanted
    assert "model.safetensors" in asked


def test_a_place_that_is_not_allowed_is_passed_over(site: Site):
    policy = site.publish(1)
    assert site.verifier().verify(policy).path == site.cache / "downloads" / "weight_v000001"
    with pytest.raises(VersionError, match="allowed_uris") as refused:
        site.verifier("s3://other").verify(policy)
    assert not isinstance(refused.value, FetchError)


def test_a_directory_that_is_not_there_yet_is_worth_another_attempt(site: Site):
    policy = site.publish(1)
    del policy.locations[1]
    site.disk.rename(site.disk.with_name("elsewhere"))
    with pytest.raises(FetchError, match="no such directory"):
        site.verifier(site.disk.as_uri()).verify(policy)


def test_a_uri_that_does_not_end_in_the_version_is_refused(site: Site):
    policy = site.publish(1)
    del policy.locations[:]
    policy.version = 2
    with pytest.raises(VersionError, match="does not end in weight_v000002"):
        site.verifier().verify(policy)


def test_a_file_that_leads_out_of_the_version_is_not_read(site: Site, tmp_path: Path):
    policy = site.publish(1)
    (tmp_path / "secret").write_bytes((site.disk / "weight_v000001" / "tokenizer.json").read_bytes())
    (site.disk / "weight_v000001" / "tokenizer.json").unlink()
    (site.disk / "weight_v000001" / "tokenizer.json").symlink_to(tmp_path / "secret")
    with pytest.raises(VersionError, match="leads to"):
        site.verifier(site.disk.as_uri()).verify(policy)


def test_a_transfer_that_fails_once_is_made_again(site: Site, monkeypatch: pytest.MonkeyPatch):
    policy = site.publish(1)
    get_file, failed = MemoryFileSystem.get_file, list[str]()

    def flaky(self: Any, rpath: str, lpath: str, **kwargs: Any) -> Any:
        if rpath not in failed:
            failed.append(rpath)
            Path(lpath).write_bytes(b"half")
            raise ConnectionError("reset by peer")
        return get_file(self, rpath, lpath, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "get_file", flaky)
    assert site.verifier().verify(policy).number == 1
    assert len(failed) > 1


def test_a_copy_that_was_interrupted_goes_on_with_what_is_missing(
    site: Site, asked: list[str], monkeypatch: pytest.MonkeyPatch
):
    policy = site.publish(1)
    counted = MemoryFileSystem.get_file

    def broken(self: Any, rpath: str, *args: Any, **kwargs: Any) -> Any:
        if rpath.endswith(".safetensors"):
            raise ConnectionError("reset by peer")
        return counted(self, rpath, *args, **kwargs)

    verifier = site.verifier()
    with monkeypatch.context() as away:
        away.setattr(MemoryFileSystem, "get_file", broken)
        with pytest.raises(FetchError, match="ConnectionError: reset by peer"):
            verifier.verify(policy)
    copied = set(asked)
    asked.clear()
    verifier.verify(policy)
    assert "model.safetensors" in asked
    assert not copied & set(asked)


def test_the_next_place_is_read_when_one_cannot_be(site: Site, monkeypatch: pytest.MonkeyPatch):
    policy = site.publish(1)
    policy.locations.add(name="tokyo", uri=f"{site.url}-tokyo/weight_v000001")  # where nothing is
    allowed = [site.url, f"{site.url}-tokyo"]
    found = Verifier(site.model, allowed, site.cache, wanted=["tokyo"]).verify(policy)
    assert found.path == site.cache / "downloads" / "weight_v000001"
    with pytest.raises(FetchError, match="tokyo"):
        Verifier(site.model, allowed[1:], site.cache).verify(policy)


def test_a_version_that_is_damaged_in_one_place_is_not_looked_for_in_another(site: Site, asked: list[str]):
    policy = site.publish(1)
    flip(site.disk / "weight_v000001" / "model.safetensors")
    with pytest.raises(VersionError, match="digest") as refused:
        site.verifier(site.url, site.disk.as_uri()).verify(policy)
    assert (type(refused.value), asked) == (VersionError, [])


def test_a_cache_that_cannot_be_written_to_is_worth_another_attempt(site: Site, monkeypatch: pytest.MonkeyPatch):
    policy = site.publish(1)

    def full(self: Path, *_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_bytes", full)
        with pytest.raises(FetchError, match=r"^cache_dir: .*No space left on device"):
            site.verifier().verify(policy)
    assert site.verifier().verify(policy).number == 1


def test_a_copy_that_was_damaged_here_is_made_again(site: Site, asked: list[str]):
    policy = site.publish(1)
    copy = site.verifier().verify(policy).path
    flip(copy / "model.safetensors")
    asked.clear()
    assert site.verifier().verify(policy).path == copy
    assert "model.safetensors" in asked


@contextlib.contextmanager
def http_store(disk: Path, asked: list[str], release: threading.Event) -> Iterator[str]:
    """Serves the versions to other processes; yields the URL. Weights are sent after ``release``; what is asked is noted."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            name = Path(self.path).name
            asked.append(name)
            if name == "model.safetensors":
                assert release.wait(120)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                super().do_GET()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(disk)))
    server.daemon_threads = True
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        release.set()
        server.shutdown()
        serving.join(60)
        server.server_close()


@contextlib.contextmanager
def worker_process(site: Site, url: str, policy: rollout_pb2.Policy) -> Iterator[subprocess.Popen[str]]:
    """A process that verifies a version as a worker does; it has begun when it is yielded."""
    words = [str(site.model), url, str(site.cache), policy.SerializeToString().hex()]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"}
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, *words], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=60)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has_open(process: subprocess.Popen[str], path: Path) -> bool:
    """Whether a process has a file open at this moment."""
    descriptors = Path(f"/proc/{process.pid}/fd")
    opened: set[str] = set()
    for entry in descriptors.iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            opened.add(os.readlink(entry))
    return str(path) in opened


def at(url: str, policy: rollout_pb2.Policy) -> rollout_pb2.Policy:
    """The announcement of the same version at another place."""
    uri = f"{url}/{version_name(policy.version)}"
    return rollout_pb2.Policy(version=policy.version, uri=uri, manifest_sha256=policy.manifest_sha256)


def test_two_workers_of_a_machine_copy_a_version_once(site: Site):
    policy, asked, release = site.publish(1), list[str](), threading.Event()
    with (
        http_store(site.disk, asked, release) as url,
        worker_process(site, url, at(url, policy)) as first,
        worker_process(site, url, at(url, policy)) as second,
    ):
        wait_for(lambda: "model.safetensors" in asked)
        lock = site.cache / "downloads" / ".lock"
        wait_for(lambda: has_open(first, lock) and has_open(second, lock))  # one has it, the other waits for it
        release.set()
        paths = {worker.communicate(timeout=120)[0].strip() for worker in (first, second)}
        assert [first.returncode, second.returncode] == [0, 0]
    assert paths == {str(site.cache / "downloads" / "weight_v000001")}
    assert asked.count("model.safetensors") == 1


def test_a_worker_that_was_killed_holds_nobody_up(site: Site):
    policy, asked, release = site.publish(1), list[str](), threading.Event()
    with http_store(site.disk, asked, release) as url:
        with worker_process(site, url, at(url, policy)) as first:
            wait_for(lambda: "model.safetensors" in asked)
            first.kill()
            first.wait(60)
        release.set()
        assert site.verifier(url).verify(at(url, policy)).number == 1


def test_what_another_worker_of_the_machine_reads_stays(site: Site):
    first, second = site.verifier(), site.verifier()
    oldest = first.verify(site.publish(1)).path
    later = [site.publish(version) for version in range(2, 8)]
    for policy in later:
        second.verify(policy)
    assert versions_on_disk(site.cache / "downloads") == [
        1,
        4,
        5,
        6,
        7,
    ]  # 4: the second worker has just moved on from it
    for policy in later[-3:]:
        first.verify(policy)
    second.verify(site.publish(8))
    assert not oldest.exists()
