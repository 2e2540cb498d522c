"""Another checkpoint while requests flow: verified first, changed over between steps, and back with one call."""

import asyncio
import logging
import signal
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.queries import PredictQuery
from service.engine import Engine
from tests.fixtures_checkpoint import build_tiny_checkpoint
from tests.service.client import app_of, ask, until
from tests.service.fakes_service import FakeModel
from tests.service.server_process import FAKE, REAL, ServerProcess, serving


async def metric(client: httpx.AsyncClient, name: str) -> float:
    """One series' value."""
    lines = (await client.get("/metrics")).text.splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_the_next_request_is_answered_by_the_new_checkpoint() -> None:
    """The answer names both, and /model, /metrics and later answers name the new one."""

    async def question(client: httpx.AsyncClient) -> None:
        before = (await client.get("/model")).json()["digest"]
        answer = await client.post("/admin/reload", json={"checkpoint": "other"})
        assert answer.status_code == 200
        changed = answer.json()
        assert changed["previous"] == {"name": "fake", "version": "1", "digest": before}
        assert changed["model"]["version"] == "2"
        assert (await client.get("/model")).json()["digest"] == changed["model"]["digest"] != before
        predicted = (await client.post("/predict", json={"text": "a"})).json()
        assert predicted["model"] == {"name": "fake", "version": "2"}
        assert await metric(client, 'lacuna_reloads_total{outcome="success"}') == 1
        assert (
            await metric(client, f'lacuna_model_info{{digest="{changed["model"]["digest"]}"') == 1
        )

    ask(question)


def test_what_was_begun_is_finished_by_the_checkpoint_that_began_it() -> None:
    """A request in flight keeps its checkpoint, while one that came later is answered by the new one at once."""
    model = FakeModel()

    async def question(client: httpx.AsyncClient) -> None:
        held = asyncio.ensure_future(client.post("/predict", json={"text": ["hold", "slow"]}))
        await until(model.holding.is_set)
        assert (await client.post("/admin/reload")).status_code == 200
        later = (await client.post("/predict", json={"text": "a"})).json()
        assert later["model"]["version"] == "2"
        assert not held.done()
        engine: Engine = app_of(client).state.lacuna.engine
        assert len(engine._generations) == 2
        model.release.set()
        assert (await held).json()["model"]["version"] == "1"
        await client.post("/predict", json={"text": "b"})
        assert len(engine._generations) == 1

    ask(question, model)


@pytest.mark.fault
def test_a_checkpoint_that_is_refused_changes_nothing() -> None:
    """The answer says what is wrong, the failure is counted, and the one before goes on."""

    async def question(client: httpx.AsyncClient) -> None:
        refused = await client.post("/admin/reload", json={"checkpoint": "broken"})
        assert refused.status_code == 422
        assert refused.json()["errors"] == [
            {
                "pointer": "/checkpoint",
                "detail": "broken: weights.safetensors differs from SHA256SUMS; copy it again",
            }
        ]
        assert (await client.post("/predict", json={"text": "a"})).json()["model"]["version"] == "1"
        assert await metric(client, 'lacuna_reloads_total{outcome="failure"}') == 1

    ask(question)


@pytest.mark.fault
def test_a_torn_checkpoint_is_refused_by_name(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Half a file of weights: 422 with file and remedy, a log line, and answers as before."""
    torn = build_tiny_checkpoint(tmp_path / "torn", seed=3, fp32=False).directory
    weights = torn / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with serving(REAL, "--checkpoint", str(tiny_checkpoint), "--threads", "1") as server:
        before = server.ask("POST", "/predict", {"text": "I like "}).json()
        refused = server.ask("POST", "/admin/reload", {"checkpoint": str(torn)})
        assert refused.status == 422
        assert "weights.safetensors" in refused.json()["errors"][0]["detail"]
        assert server.logged(event="reload failed", level="error")["reason"]
        assert (
            server.ask("POST", "/predict", {"text": "I like "}).json()["results"]
            == before["results"]
        )


@pytest.mark.fault
def test_a_failure_that_is_not_the_checkpoints_is_logged_with_its_place(tmp_path: Path) -> None:
    """A directory that is there and cannot be loaded for another reason: 500, and the log has type and place."""

    class Exhausted(FakeModel):
        def load(self, on_call: Any = None, directory: Path = Path()) -> Any:
            """Find the process without descriptors from the second time on."""
            if self.loads:
                raise OSError(24, "Too many open files")
            return super().load(on_call, directory)

    async def question(client: httpx.AsyncClient) -> list[httpx.Response]:
        paths = (tmp_path, tmp_path / "missing")
        return [
            await client.post("/admin/reload", json={"checkpoint": str(path)}) for path in paths
        ]

    assert [response.status_code for response in ask(question, Exhausted())] == [500, 422]


@pytest.mark.fault
def test_a_hangup_before_it_listens_is_no_end(tiny_checkpoint: Path) -> None:
    """`systemctl restart` and then `reload`: the signal comes before there is anything to reload."""
    with serving(
        REAL, "--checkpoint", str(tiny_checkpoint), "--threads", "1", ready=False
    ) as server:
        server.logged(event="listening")
        server.send_signal(signal.SIGHUP)
        server.logged(event="ready")
        assert server.ask("GET", "/readyz").status == 200


def test_a_hangup_loads_what_the_settings_name_now(tmp_path: Path) -> None:
    """The setting names a link; pointed elsewhere, SIGHUP follows it."""
    one, other = (
        build_tiny_checkpoint(tmp_path / name, seed=seed, fp32=False)
        for seed, name in enumerate("ab")
    )
    link = tmp_path / "current"
    link.symlink_to(one.directory)
    with serving(REAL, "--checkpoint", str(link), "--threads", "1") as server:
        link.unlink()
        link.symlink_to(other.directory)
        server.send_signal(signal.SIGHUP)
        assert server.logged(event="reloaded")["digest"] == other.digest
        assert server.ask("GET", "/model").json()["digest"] == other.digest


def test_one_change_at_a_time() -> None:
    """While a checkpoint is being loaded a second change is refused, and requests are answered."""
    model = _LoadsOnRelease()

    async def question(client: httpx.AsyncClient) -> None:
        first = asyncio.ensure_future(client.post("/admin/reload"))
        await until(model.loading.is_set)
        assert (await client.post("/admin/reload")).status_code == 409
        assert (await client.post("/predict", json={"text": "a"})).status_code == 200
        model.load_now.set()
        assert (await first).status_code == 200

    ask(question, model)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("state", "value", "told"),
    [("draining", True, "shutting down"), ("loaded", None, "still loading")],
)
def test_a_hangup_that_comes_too_early_or_too_late_is_no_failure(
    caplog: pytest.LogCaptureFixture, state: str, value: object, told: str
) -> None:
    """Nothing is wrong with a checkpoint: one warning says why in words, and no ticket is made of it."""

    async def question(client: httpx.AsyncClient) -> None:
        context = app_of(client).state.lacuna
        setattr(context.engine, state, value)
        context.reloader.hang_up()
        await until(lambda: "reload" in "".join(record.message for record in caplog.records))
        (line,) = (record for record in caplog.records if record.message.startswith("reload"))
        assert (line.message, line.levelno) == ("reload refused", logging.WARNING)
        assert told in line.__dict__["fields"]["reason"]
        assert await metric(client, 'lacuna_reloads_total{outcome="failure"}') == 0

    with caplog.at_level(logging.INFO):
        ask(question)


@pytest.mark.fault
def test_a_hangup_during_a_change_is_followed_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The link may have moved after the change read it: however many signals come, one reload follows."""
    model = _LoadsOnRelease()

    async def question(client: httpx.AsyncClient) -> None:
        reloader = app_of(client).state.lacuna.reloader
        first = asyncio.ensure_future(client.post("/admin/reload", json={"checkpoint": "other"}))
        await until(model.loading.is_set)
        for _ in range(3):
            reloader.hang_up()
        model.load_now.set()
        assert (await first).status_code == 200
        await until(lambda: not reloader._tasks)
        assert model.loads == 3
        assert await metric(client, 'lacuna_reloads_total{outcome="success"}') == 2
        assert app_of(client).state.lacuna.engine.loaded.directory.name != "other"

    with caplog.at_level(logging.INFO):
        ask(question, model)
    assert [record.message for record in caplog.records].count(
        "reload waits for the one that is on"
    ) == 1


class _LoadsOnRelease(FakeModel):
    """A model whose second load takes as long as a test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.loading, self.load_now = threading.Event(), threading.Event()

    def load(self, on_call: Any = None, directory: Path = Path()) -> Any:
        """Wait, then load."""
        if self.loads:
            self.loading.set()
            self.load_now.wait()
        return super().load(on_call, directory)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"checkpoint": 5}', 422),
        (b'{"checkpoint": ""}', 422),
        (b'{"checkpoint": "\\u0000"}', 422),
        (b'{"checkpoint": "\\ud800"}', 422),
        (b'{"directory": "a"}', 422),
        (b"{", 400),
    ],
)
def test_bad_bodies_are_refused(body: bytes, status: int, tiny_checkpoint: Path) -> None:
    """A real process, which goes on answering."""
    with serving(REAL, "--checkpoint", str(tiny_checkpoint), "--threads", "1") as server:
        refused = server.ask("POST", "/admin/reload", body)
        assert refused.status == status, refused.body
        assert server.ask("GET", "/readyz").status == 200


def test_requests_flow_through_many_changes(tmp_path: Path) -> None:
    """Two clients ask without pause while the checkpoint changes ten times: no request fails, all answers are whole."""
    directories = [
        build_tiny_checkpoint(tmp_path / name, seed=n, fp32=False).directory
        for n, name in enumerate("ab")
    ]
    with serving(REAL, "--checkpoint", str(directories[0]), "--threads", "1") as server:
        stop = threading.Event()
        statuses: list[int] = []
        clients = [
            threading.Thread(target=_ask_on, args=(server, stop, statuses)) for _ in range(2)
        ]
        for client in clients:
            client.start()
        for change in range(10):
            answer = server.ask(
                "POST", "/admin/reload", {"checkpoint": str(directories[1 - change % 2])}
            )
            assert answer.status == 200, answer.body
        stop.set()
        for client in clients:
            client.join()
        assert len(statuses) >= 10
        assert set(statuses) == {200}


def _ask_on(server: ServerProcess, stop: threading.Event, statuses: list[int]) -> None:
    while not stop.is_set():
        answer = server.ask("POST", "/predict", {"text": ["I like to go to the ", "我喜欢"]})
        statuses.append(
            answer.status if answer.status != 200 or len(answer.json()["results"]) == 2 else 0
        )


@pytest.mark.fault
def test_an_engine_that_has_ended_takes_no_checkpoint() -> None:
    """After the drain began, a change is refused rather than waited for."""

    async def question(client: httpx.AsyncClient) -> None:
        app_of(client).state.lacuna.engine.draining = True
        assert (await client.post("/admin/reload")).status_code == 503

    ask(question)


def test_a_query_of_the_old_checkpoint_counts_as_its_own_work() -> None:
    """Work that waits is counted across the change, and nothing is left over in the end."""
    model = FakeModel()

    async def question(client: httpx.AsyncClient) -> None:
        engine: Engine = app_of(client).state.lacuna.engine
        jobs = [engine.submit([PredictQuery("hold"), PredictQuery("b")])]
        await until(model.holding.is_set)
        await client.post("/admin/reload")
        jobs.append(engine.submit([PredictQuery("c")]))
        model.release.set()
        await asyncio.gather(*(job.future for job in jobs))
        assert (engine.admission.waiting, engine.admission.work) == (0, 0)

    ask(question, model)


def test_the_fake_process_reloads_too() -> None:
    """Signals reach a process that serves the fake model: what other tests build on."""
    with serving(FAKE) as server:
        server.send_signal(signal.SIGHUP)
        assert server.logged(event="reloaded")["version"] == "2"
