"""Tests of service/model_loader.py, with real checkpoints and with the fake model."""

import asyncio
import logging
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.checkpoint import load_checkpoint
from model.errors import CheckpointError
from model.queries import PredictQuery
from service.model_loader import load, network_threads
from service.settings import Settings
from tests.fixtures_checkpoint import build_tiny_checkpoint, random_weights
from tests.service.client import app_of, ask, key_entry, real_model, until
from tests.service.fakes_service import FakeModel
from tests.service.server_process import REAL, serving

_BLANK_CALLS = ("forward", "backward", "gap")


def ask_as_admin(question: Any, folder: Path, model: Any = None, **settings: Any) -> Any:
    """Ask a service whose keys file in *folder* has one key, an administrator's."""
    (folder / "keys.toml").write_text(key_entry("root", "admin = true"))

    async def ask_with_key(client: httpx.AsyncClient) -> Any:
        client.headers["Authorization"] = "Bearer token of root"
        return await question(client)

    return ask(ask_with_key, model, keys_file=folder / "keys.toml", **settings)


def ask_real(question: Any, checkpoint: Path, **settings: Any) -> Any:
    """Ask a service with a real checkpoint."""
    return ask(question, real_model(checkpoint, **settings))


def test_network_calls_are_counted(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A blank needs calls in both directions and calls that join them."""

    async def question(client: httpx.AsyncClient) -> list[float]:
        await client.post("/cloze", json={"text": "the ____ cat"})
        names = [f'lacuna_network_rows_total{{call="{call}"' for call in _BLANK_CALLS]
        return [await metric(client, name) for name in names]

    assert min(ask_as_admin(question, tmp_path, real_model(tiny_checkpoint))) > 0


def test_no_text_is_found_by_another_key(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Cached texts and history of a key are found by this key alone, even after it was rotated."""
    file = tmp_path / "keys.toml"

    async def question(client: httpx.AsyncClient) -> list[int]:
        async def cached(name: str, path: str, text: str) -> int:
            body = {"text": text, "history": "the cat store"}
            headers = {"Authorization": f"Bearer token of {name}"}
            answer = await client.post(path, json=body, headers=headers)
            found: int = answer.json()["usage"]["cached_tokens"]
            return found

        typed, blank = "I like the cat and the ", "I like the cat and the ____ on"
        found = [await cached(name, "/predict", typed) for name in "aabb"]
        file.write_text(key_entry("new") + key_entry("a"))
        app_of(client).state.keys.refresh()
        found.append(await cached("a", "/predict", typed))
        return [*found, *[await cached(name, "/cloze", blank) for name in ("a", "new")]]

    file.write_text(key_entry("a") + key_entry("b"))
    first, again, stranger, stranger_again, rotated, blank, new_blank = ask(
        question, real_model(tiny_checkpoint), keys_file=file
    )
    assert first == stranger == new_blank == 0
    assert again == stranger_again == rotated > 0
    assert blank > 0


def test_settings_reach_the_model(tiny_checkpoint: Path) -> None:
    """A limit on one text is checked by the model with the service's setting.

    GET /model's count is the number of numbers in the weights.
    """

    async def question(client: httpx.AsyncClient) -> Any:
        refused = await client.post("/predict", json={"text": "123456"})
        return refused, (await client.get("/model")).json()

    refused, model = ask_real(question, tiny_checkpoint, max_characters=5)
    assert refused.status_code == 422
    assert "at most 5" in refused.json()["detail"]
    weights = random_weights(load_checkpoint(tiny_checkpoint).config.network)
    assert model["parameters"] == sum(each.size for each in weights.values())
    assert model["counts"] == []


def test_a_checkpoint_larger_than_the_memory_for_it_is_refused(tmp_path: Path) -> None:
    """All listed files count, before any of them is read."""
    directory = build_tiny_checkpoint(tmp_path / "tiny").directory
    os.truncate(directory / "onnx" / "int8.weights", 2 << 20)
    settings = Settings(device="cpu", checkpoint=directory, max_checkpoint_mib=2)
    with pytest.raises(CheckpointError, match="more than 2097152 bytes of files; choose a smaller"):
        load(settings, lambda *_: None)


def test_a_loaded_checkpoint_expects_nothing_in_its_cache(tiny_checkpoint: Path) -> None:
    """A text costs as much after a reload as at first, although it was answered before."""
    settings = Settings(device="cpu", checkpoint=tiny_checkpoint)
    before, after = (load(settings, lambda *_: None).estimator for _ in range(2))
    queries = [PredictQuery("a" * 640)]
    cold = before.estimate(queries)
    before.remember(queries, "")
    assert before.estimate(queries) < cold
    assert after.estimate(queries) == cold


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


def test_counts_are_served_without_a_network(tiny_ngram: Path) -> None:
    """A model that `training ngram` wrote answers every question."""

    async def question(client: httpx.AsyncClient) -> Any:
        bodies = {"/predict": "I like the ", "/cloze": "the ____ on", "/score": "I like the cat"}
        answers = [await client.post(path, json={"text": text}) for path, text in bodies.items()]
        return (await client.get("/model")).json(), answers

    model, answers = ask_real(question, tiny_ngram)
    assert model["name"] == "3-gram"
    assert model["architecture"] == {}
    ngrams, files = model["counts"][0]["ngrams"], tiny_ngram.glob("counts/*")
    assert model["parameters"] == sum(ngrams) > ngrams[0] == 364
    assert model["counts"][0]["bytes"] == sum(path.stat().st_size for path in files)
    assert model["counts"][0]["weights"].keys() == {"zh", "en"}
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert answers[0].json()["results"][0]["candidates"]


@pytest.mark.parametrize(
    ("wanted", "group", "cpus", "quota", "threads"),
    [
        (3, "", 64, "50000 100000", 3),
        (0, "", 64, None, 4),
        (0, "", 3, None, 2),
        (0, "", 64, "max 100000", 4),
        (0, "", 64, "350000 100000", 2),
        (0, "", 64, "50000 100000", 1),
        (0, "a/b", 64, "300000 100000", 2),
        (0, "", 64, "nonsense", 4),
    ],
)
def test_threads_leave_a_cpu_for_the_event_loop(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wanted: int,
    group: str,
    cpus: int,
    quota: str | None,
    threads: int,
) -> None:
    """Unless set, a step uses at most 4, and one fewer than affinity and quota allow."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)), raising=False)
    (tmp_path / group).mkdir(parents=True, exist_ok=True)
    if quota:
        (tmp_path / group / "cpu.max").write_text(f"{quota}\n")
    (tmp_path / "self").write_text(f"0::/{group}\n")
    assert network_threads(wanted, tmp_path, tmp_path / "self") == threads


async def metric(client: httpx.AsyncClient, name: str) -> float:
    """Return one series' value."""
    lines = (await client.get("/metrics")).text.splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_a_reload_changes_what_answers(tmp_path: Path) -> None:
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

    ask_as_admin(question, tmp_path)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("later", "status", "field", "logged"),
    [("broken", 422, "reason", "int8.weights"), ("exhausted", 500, "exception", "OSError")],
)
def test_a_failed_reload_changes_nothing(
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    later: str,
    status: int,
    field: str,
    logged: str,
) -> None:
    """The log has the checkpoint's fault, or type and places; the old model goes on."""

    async def question(client: httpx.AsyncClient) -> None:
        refused = await client.post("/admin/reload")
        assert refused.status_code == status
        assert ("SHA256SUMS" in refused.json()["detail"]) is (status == 422)
        assert (await client.post("/predict", json={"text": "a"})).json()["model"]["version"] == "1"
        assert await metric(client, 'lacuna_reloads_total{outcome="failure"}') == 1

    ask_as_admin(question, tmp_path, FakeModel(later=later))
    (line,) = (record for record in caplog.records if record.message == "reload failed")
    assert logged in str(line.__dict__["fields"][field])


def test_sighup_follows_a_link_that_was_pointed_elsewhere(tmp_path: Path) -> None:
    """The setting names a link. A signal before the first load ends nothing."""
    one, other = (
        build_tiny_checkpoint(tmp_path / name, seed=seed) for seed, name in enumerate("ab")
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


def test_one_change_at_a_time(tmp_path: Path) -> None:
    """During a reload requests are answered, and other reloads and SIGHUPs wait for their turn."""
    model = FakeModel()

    async def question(client: httpx.AsyncClient) -> None:
        model.loading.clear()
        model.load_now.clear()
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

    ask_as_admin(question, tmp_path, model)
    assert model.loads == 4


@pytest.mark.fault
def test_a_load_without_end_is_given_up(tmp_path: Path) -> None:
    """The old checkpoint goes on, and no load starts while an earlier one still runs."""
    model = FakeModel()

    async def question(client: httpx.AsyncClient) -> None:
        model.load_now.clear()
        refused = await client.post("/admin/reload")
        assert refused.status_code == 422
        assert "was not loaded within 0.05 s" in refused.json()["detail"]
        assert (await client.post("/admin/reload")).status_code == 503
        assert (await client.post("/predict", json={"text": "a"})).json()["model"]["version"] == "1"
        assert await metric(client, 'lacuna_reloads_total{outcome="failure"}') == 1
        model.load_now.set()
        while (await client.post("/admin/reload")).status_code == 503:
            await asyncio.sleep(0.001)
        assert await metric(client, 'lacuna_reloads_total{outcome="success"}') == 1
        assert (await client.get("/model")).json()["version"] == "3"

    ask_as_admin(question, tmp_path, model, load_seconds=0.05)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("state", "value", "reason"),
    [("draining", True, "shutting down"), ("loaded", None, "still loading")],
)
def test_a_reload_too_early_or_too_late_is_no_failure(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, state: str, value: object, reason: str
) -> None:
    """It is 503 and one warning, and counts as no failure of a checkpoint."""

    async def question(client: httpx.AsyncClient) -> None:
        setattr(app_of(client).state.lacuna.engine, state, value)
        assert (await client.post("/admin/reload")).status_code == 503
        assert await metric(client, 'lacuna_reloads_total{outcome="failure"}') == 0

    ask_as_admin(question, tmp_path)
    (line,) = (record for record in caplog.records if record.message == "reload refused")
    assert line.levelno == logging.WARNING
    assert reason in line.__dict__["fields"]["reason"]
