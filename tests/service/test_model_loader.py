"""Tests of service/model_loader.py, with real checkpoints and with the fake model."""

import asyncio
import json
import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file

import service.__main__ as command
from model.checkpoint import load_checkpoint
from model.predictor import Predictor
from model.queries import ClozeQuery, PredictQuery, ScoreQuery
from model.runtime import open_runtime
from service.auth import hash_key
from service.model_loader import available_cpus, choose_device, describe, load, network_threads
from service.settings import Settings
from tests.fixtures_checkpoint import build_tiny_checkpoint
from tests.service.client import app_of, ask, until
from tests.service.fakes_service import FakeModel
from tests.service.server_process import FAKE, REAL, ServerProcess, serving

_TEXTS = ["I like to go to the theat", "我____一部新手机。", "", "今天 the ____ cat"]


class _Real:
    """A load function of `tests.service.client` that loads a checkpoint."""

    def __init__(self, **settings: Any) -> None:
        self._settings = Settings(threads=1, **settings)

    def load(self, on_call: Any) -> Any:
        """Load it, whatever the app's own settings name."""
        return load(self._settings, on_call)

    def end(self) -> None:
        """Nothing is held."""


def ask_real(question: Any, checkpoint: Path) -> Any:
    """Ask a service with a real checkpoint."""
    return ask(question, _Real(checkpoint=checkpoint))


def test_service_answers_what_the_predictor_answers(tiny_checkpoint: Path) -> None:
    """HTTP, engine and scheduler change no number of `Predictor.run`; network calls are counted."""
    checkpoint = load_checkpoint(tiny_checkpoint)
    predictor = Predictor(checkpoint, open_runtime(checkpoint))
    blanks = [text for text in _TEXTS if "____" in text]

    async def question(client: httpx.AsyncClient) -> list[Any]:
        bodies = [("/predict", _TEXTS), ("/cloze", blanks), ("/score", blanks)]
        answers = [await client.post(path, json={"text": texts}) for path, texts in bodies]
        metrics = (await client.get("/metrics")).text
        for call in ("forward", "backward", "gap"):
            assert f'lacuna_network_rows_total{{call="{call}"}} 0.0' not in metrics
        return [answer.json()["results"] for answer in answers]

    predicted, filled, scored = ask_real(question, tiny_checkpoint)
    expected: list[Any] = predictor.run([PredictQuery(text) for text in _TEXTS])
    assert [
        [(each["word"], each["append"], each["probability"]) for each in result["candidates"]]
        for result in predicted
    ] == [[(c.word, c.append, c.probability) for c in result.candidates] for result in expected]
    expected = predictor.run([ClozeQuery(text) for text in blanks])
    assert [result["filled"] for result in filled] == [result.filled for result in expected]
    expected = predictor.run([ScoreQuery(text) for text in blanks])
    assert [each["log_probability"] for each in scored] == [
        each.log_probability for each in expected
    ]


def test_no_text_is_found_by_another_key(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Cached texts and history of a key are found by this key alone, even after it was rotated."""
    file = tmp_path / "keys.toml"

    def write(*names: str) -> None:
        hashes = {name: hash_key(f"key of {name}".encode()).hex() for name in names}
        file.write_text(
            "".join(f'[[key]]\nname = "{name}"\nsha256 = "{hashes[name]}"\n' for name in names)
        )

    async def question(client: httpx.AsyncClient) -> list[int]:
        async def cached(name: str, path: str, text: str) -> int:
            body = {"text": text, "history": "the cat store"}
            headers = {"Authorization": f"Bearer key of {name}"}
            answer = await client.post(path, json=body, headers=headers)
            found: int = answer.json()["usage"]["cached_tokens"]
            return found

        typed, blank = "I like the cat and the ", "I like the cat and the ____ on"
        found = [await cached(name, "/predict", typed) for name in "aabb"]
        write("new", "a")
        app_of(client).state.keys.refresh()
        found.append(await cached("a", "/predict", typed))
        return [*found, *[await cached(name, "/cloze", blank) for name in ("a", "new")]]

    write("a", "b")
    first, again, stranger, stranger_again, rotated, blank, new_blank = ask(
        question, _Real(checkpoint=tiny_checkpoint), keys_file=file
    )
    assert first == stranger == new_blank == 0
    assert again == stranger_again == rotated > 0
    assert blank > 0


def test_limits_reach_the_model(tiny_checkpoint: Path) -> None:
    """A limit on one text is checked by the model with the service's setting."""
    model = _Real(checkpoint=tiny_checkpoint, max_characters=5)
    response = ask(lambda client: client.post("/predict", json={"text": "123456"}), model)
    assert response.status_code == 422
    assert "at most 5" in response.json()["detail"]


def test_description_counts_every_parameter(tiny_checkpoint: Path) -> None:
    """GET /model's count is the number of numbers in the weights, and all of it is JSON."""
    description = describe(load_checkpoint(tiny_checkpoint))
    arrays = load_file(tiny_checkpoint / "weights.safetensors").values()
    assert description["parameters"] == sum(int(np.prod(array.shape)) for array in arrays)
    assert json.loads(json.dumps(description)) == description


def test_device_is_chosen_without_torch(tmp_path: Path) -> None:
    """``auto`` means the CPU on a machine without the driver; a named device is taken."""
    assert choose_device("auto", tmp_path / "no-driver") == "cpu"
    assert choose_device("cpu", tmp_path) == "cpu"
    assert choose_device("cuda", tmp_path / "no-driver") == "cuda"


def test_a_missing_bundled_checkpoint_is_an_error_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the directory, and says how to get a checkpoint."""
    missing = tmp_path / "default"
    monkeypatch.setattr(command, "DEFAULT_CHECKPOINT", missing)
    settings = Settings(checkpoint=missing)
    with pytest.raises(Exception, match="does not exist") as failed:
        load(settings, lambda *_: None)
    reason = command._reason(failed.value, settings)
    assert all(part in reason for part in (str(missing), "train one", "--checkpoint"))


def test_a_stacked_network_is_served_for_blanks_alone(tmp_path: Path) -> None:
    """`GET /model` says so; `/cloze` answers, with and without choices; other routes refuse."""
    checkpoint = build_tiny_checkpoint(
        tmp_path / "stacked", architecture="stacked_bidirectional", forward_layers=3
    )

    async def question(client: httpx.AsyncClient) -> Any:
        model = (await client.get("/model")).json()
        bodies = {"text": "the ____ on"}, {"text": "I ____ the cat", "choices": ["like", "store"]}
        filled = [await client.post("/cloze", json=body) for body in bodies]
        refused = [await client.post(path, json={"text": "I"}) for path in ("/predict", "/score")]
        return model, filled, refused

    model, filled, refused = ask_real(question, checkpoint.directory)
    assert model["capabilities"] == ["cloze"]
    (blank,) = filled[1].json()["results"][0]["blanks"]
    assert sum(each["probability"] for each in blank["candidates"]) == pytest.approx(1)
    assert [answer.status_code for answer in (*filled, *refused)] == [200, 200, 422, 422]
    assert all("can answer cloze" in answer.text for answer in refused)


def test_an_ngram_is_served_in_a_checkpoints_place(tiny_ngram: Path) -> None:
    """A model that `training ngram` wrote answers every question."""

    async def question(client: httpx.AsyncClient) -> Any:
        bodies = {"/predict": "I like the ", "/cloze": "the ____ on", "/score": "I like the cat"}
        answers = [await client.post(path, json={"text": text}) for path, text in bodies.items()]
        return (await client.get("/model")).json(), answers

    model, answers = ask_real(question, tiny_ngram)
    assert model["name"] == "3-gram"
    assert model["parameters"] > model["architecture"]["vocabulary_size"]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert answers[0].json()["results"][0]["candidates"]


@pytest.mark.parametrize(
    ("files", "path", "cpus"),
    [
        ({}, "", 64),
        ({"cpu.max": "max 100000\n"}, "", 64),
        ({"cpu.max": "9900000 100000\n"}, "", 64),
        ({"cpu.max": "250000 100000\n"}, "", 2),
        ({"cpu.max": "50000 100000\n"}, "", 1),
        ({"cpu.max": "nonsense"}, "", 64),
        ({"a/b/cpu.max": "200000 100000", "a/cpu.max": "300000 100000"}, "a/b", 2),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, "a/b", 3),
        ({"a/other/cpu.max": "200000 100000"}, "a/b", 64),
        ({"cpu.max": "200000 100000"}, "of/the/host", 2),
    ],
)
def test_cpus_follow_affinity_and_the_smallest_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], path: str, cpus: int
) -> None:
    """The quotas from the process's group up to the root bound the 64 CPUs of the machine."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "self").write_text(f"0::/{path}\n")
    assert available_cpus(tmp_path, tmp_path / "self") == cpus
    assert available_cpus(tmp_path / "none", tmp_path / "none") == 64


def test_threads_leave_a_cpu_for_the_event_loop() -> None:
    """Unless set, a network step uses at most 4 threads, and one CPU fewer than there are."""
    assert network_threads(3) == 3
    assert network_threads(0) == max(1, min(available_cpus() - 1, 4))


async def metric(client: httpx.AsyncClient, name: str) -> float:
    """Return one series' value."""
    lines = (await client.get("/metrics")).text.splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_a_reload_changes_what_answers() -> None:
    """The answer names both checkpoints; /model, /metrics and later answers name the new one."""

    async def question(client: httpx.AsyncClient) -> None:
        before = (await client.get("/model")).json()["digest"]
        changed = (await client.post("/admin/reload")).json()
        assert changed["previous"] == {"name": "fake", "version": "1", "digest": before}
        assert changed["model"]["version"] == "2"
        digest = (await client.get("/model")).json()["digest"]
        assert digest == changed["model"]["digest"] != before
        predicted = (await client.post("/predict", json={"text": "a"})).json()
        assert predicted["model"] == {"name": "fake", "version": "2"}
        assert await metric(client, 'lacuna_reloads_total{outcome="success"}') == 1
        assert await metric(client, f'lacuna_model_info{{digest="{digest}"') == 1

    ask(question)


@pytest.mark.fault
def test_a_refused_checkpoint_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Answer and log give the reason, the failure is counted, and the old one goes on."""

    async def question(client: httpx.AsyncClient) -> None:
        refused = await client.post("/admin/reload")
        assert refused.status_code == 422
        assert refused.json()["detail"].startswith("weights.safetensors differs from SHA256SUMS")
        assert (await client.post("/predict", json={"text": "a"})).json()["model"]["version"] == "1"
        assert await metric(client, 'lacuna_reloads_total{outcome="failure"}') == 1

    ask(question, FakeModel(later="broken"))
    (line,) = (record for record in caplog.records if record.message == "reload failed")
    assert "weights.safetensors" in line.__dict__["fields"]["reason"]


@pytest.mark.fault
def test_a_failure_that_is_not_the_checkpoints_is_500(caplog: pytest.LogCaptureFixture) -> None:
    """If a reload fails for another reason, the log has type and places."""

    class Exhausted(FakeModel):
        def load(self, on_call: Any = None) -> Any:
            """Find the process without file descriptors from the second time on."""
            if self.loads:
                raise OSError(24, "Too many open files")
            return super().load(on_call)

    answer = ask(lambda client: client.post("/admin/reload"), Exhausted())
    assert answer.status_code == 500
    (line,) = (record for record in caplog.records if record.message == "reload failed")
    assert line.__dict__["fields"]["exception"]["type"] == "OSError"


def test_sighup_follows_a_link_that_was_pointed_elsewhere(tmp_path: Path) -> None:
    """The setting names a link. A signal before the first load ends nothing."""
    one, other = (
        build_tiny_checkpoint(tmp_path / name, seed=seed, fp32=False)
        for seed, name in enumerate("ab")
    )
    link = tmp_path / "current"
    link.symlink_to(one.directory)
    options = "--checkpoint", str(link), "--threads", "1"
    with serving(REAL, *options, ready=False) as server:
        server.logged(event="listening")
        server.send_signal(signal.SIGHUP)
        assert server.logged(event="ready")["digest"] == one.digest
        link.unlink()
        link.symlink_to(other.directory)
        server.send_signal(signal.SIGHUP)
        assert server.logged(event="reloaded", digest=other.digest)
        assert server.ask("GET", "/model").json()["digest"] == other.digest


class _LoadsOnRelease(FakeModel):
    """A model whose later loads take as long as a test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.loading, self.load_now = threading.Event(), threading.Event()

    def load(self, on_call: Any = None) -> Any:
        """Wait, then load."""
        if self.loads:
            self.loading.set()
            self.load_now.wait()
        return super().load(on_call)


def test_one_change_at_a_time() -> None:
    """During a reload requests are answered, and other reloads and SIGHUPs wait for their turn."""
    model = _LoadsOnRelease()

    async def question(client: httpx.AsyncClient) -> None:
        reloads = [asyncio.ensure_future(client.post("/admin/reload")) for _ in range(2)]
        app_of(client).state.lacuna.reloader.on_sighup()
        await until(model.loading.is_set)
        assert (await client.post("/predict", json={"text": "a"})).status_code == 200
        assert model.loads == 1
        model.load_now.set()
        for reload in reloads:
            assert (await reload).status_code == 200
        while await metric(client, 'lacuna_reloads_total{outcome="success"}') < 3:
            await asyncio.sleep(0)

    ask(question, model)
    assert model.loads == 4


@pytest.mark.fault
@pytest.mark.parametrize(
    ("state", "value", "reason"),
    [("draining", True, "shutting down"), ("loaded", None, "still loading")],
)
def test_a_reload_too_early_or_too_late_is_no_failure(
    caplog: pytest.LogCaptureFixture, state: str, value: object, reason: str
) -> None:
    """It is 503 and one warning, and counts as no failure of a checkpoint."""

    async def question(client: httpx.AsyncClient) -> None:
        setattr(app_of(client).state.lacuna.engine, state, value)
        assert (await client.post("/admin/reload")).status_code == 503
        assert await metric(client, 'lacuna_reloads_total{outcome="failure"}') == 0

    ask(question)
    (line,) = (record for record in caplog.records if record.message == "reload refused")
    assert line.levelno == logging.WARNING
    assert reason in line.__dict__["fields"]["reason"]


def test_requests_flow_through_many_reloads() -> None:
    """Two clients ask without pause while the checkpoint changes ten times: no request fails."""
    with serving(FAKE) as server:
        stop = threading.Event()
        statuses: list[int] = []
        clients = [threading.Thread(target=_ask_on, args=(server, stop, statuses)) for _ in "ab"]
        for client in clients:
            client.start()
        for _ in range(10):
            answer = server.ask("POST", "/admin/reload")
            assert answer.status == 200, answer.body
        stop.set()
        for client in clients:
            client.join()
    assert len(statuses) >= 10
    assert set(statuses) == {200}


def _ask_on(server: ServerProcess, stop: threading.Event, statuses: list[int]) -> None:
    while not stop.is_set():
        statuses.append(server.ask("POST", "/predict", {"text": ["slow", "我喜欢"]}).status)
