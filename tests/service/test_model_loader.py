"""Tests of service/model_loader.py, and of the whole service in this process with a real checkpoint."""

import json
import os
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
from service.keys import hash_key
from service.model_loader import available_cpus, choose_device, describe, load, network_threads
from service.settings import Settings
from tests.fixtures_checkpoint import build_tiny_checkpoint
from tests.service.client import app_of, ask

_TEXTS = ["I like to go to the theat", "我____一部新手机。", "", "今天 the ____ cat"]


class _Real:
    """A load function of `tests.service.client` that loads a checkpoint."""

    def __init__(self, **settings: Any) -> None:
        self._settings = Settings(threads=1, **settings)

    def load(self, on_call: Any, _: Path) -> Any:
        """Load it, whatever the app's own settings name."""
        return load(self._settings, on_call, self._settings.checkpoint)

    def end(self) -> None:
        """Nothing is held."""


def ask_real(question: Any, checkpoint: Path) -> Any:
    """Ask a service with a real checkpoint."""
    return ask(question, _Real(checkpoint=checkpoint))


def test_service_answers_what_the_predictor_answers(tiny_checkpoint: Path) -> None:
    """Through HTTP, engine and scheduler come exactly the numbers of `Predictor.run`, in the order sent."""
    checkpoint = load_checkpoint(tiny_checkpoint)
    predictor = Predictor(checkpoint, open_runtime(checkpoint))
    blanks = [text for text in _TEXTS if "____" in text]

    async def question(client: httpx.AsyncClient) -> list[Any]:
        bodies = [("/predict", _TEXTS), ("/cloze", blanks), ("/score", blanks)]
        return [
            (await client.post(path, json={"text": texts})).json()["results"]
            for path, texts in bodies
        ]

    predicted, filled, scored = ask_real(question, tiny_checkpoint)
    for result, expected in zip(
        predicted, predictor.run([PredictQuery(text) for text in _TEXTS]), strict=True
    ):
        assert [(c["word"], c["append"], c["probability"]) for c in result["candidates"]] == [
            (c.word, c.append, c.probability)
            for c in expected.candidates  # type: ignore[union-attr]
        ]
    for result, expected in zip(
        filled, predictor.run([ClozeQuery(text) for text in blanks]), strict=True
    ):
        assert result["filled"] == expected.filled  # type: ignore[union-attr]
    for result, expected in zip(
        scored, predictor.run([ScoreQuery(text) for text in blanks]), strict=True
    ):
        assert result["log_probability"] == expected.log_probability  # type: ignore[union-attr]


def test_no_text_is_found_by_another_key(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """What one key's texts and history left in the cache, the same key finds and no other, also after a rotation."""
    file = tmp_path / "keys.toml"

    def write(*names: str) -> None:
        hashes = {name: hash_key(f"key of {name}".encode()).hex() for name in names}
        file.write_text(
            "".join(f'[[key]]\nname = "{name}"\nsha256 = "{hashes[name]}"\n' for name in names)
        )

    async def question(client: httpx.AsyncClient) -> list[int]:
        async def cached(
            name: str, path: str = "/predict", text: str = "I like the cat and the "
        ) -> int:
            body = {"text": text, "history": "the cat store"}
            response = await client.post(
                path, json=body, headers={"Authorization": f"Bearer key of {name}"}
            )
            found: int = response.json()["usage"]["cached_tokens"]
            return found

        found = [await cached("a"), await cached("a"), await cached("b"), await cached("b")]
        write("new", "a")
        app_of(client).state.keys.refresh()
        blank = "I like the cat and the ____ on"
        return [
            *found,
            await cached("a"),
            await cached("a", "/cloze", blank),
            await cached("new", "/cloze", blank),
        ]

    write("a", "b")
    first, again, stranger, stranger_again, rotated, blank, new_blank = ask(
        question, _Real(checkpoint=tiny_checkpoint), keys_file=file
    )
    assert first == stranger == new_blank == 0
    assert again == stranger_again == rotated > 0
    assert blank > 0


def test_network_calls_are_measured(tiny_checkpoint: Path) -> None:
    """The rows that the network computes arrive in the metrics by kind of call."""

    async def question(client: httpx.AsyncClient) -> str:
        await client.post("/cloze", json={"text": "a ____ b"})
        return (await client.get("/metrics")).text

    lines = ask_real(question, tiny_checkpoint).splitlines()
    for call in ("forward", "backward", "gap"):
        (rows,) = [
            line for line in lines if line.startswith(f'lacuna_network_rows_total{{call="{call}"}}')
        ]
        assert float(rows.split()[-1]) > 0


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
    """Auto means the CPU where there is no driver; a device that is named is taken at its word."""
    assert choose_device("auto", tmp_path / "no-driver") == "cpu"
    assert choose_device("cpu", tmp_path) == "cpu"
    assert choose_device("cuda", tmp_path / "no-driver") == "cuda"


def test_missing_bundled_checkpoint_tells_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the bundled checkpoint is missing the message says so, and how to get one."""
    missing = tmp_path / "default"
    monkeypatch.setattr(command, "DEFAULT_CHECKPOINT", missing)
    settings = Settings(checkpoint=missing)
    with pytest.raises(Exception, match="does not exist") as failed:
        load(settings, lambda call, rows: None, missing)  # noqa: ARG005
    reason = command._reason(failed.value, settings)
    assert str(missing) in reason
    assert "train one" in reason
    assert "--checkpoint" in reason


def test_a_stacked_network_is_served_for_blanks_alone(tmp_path: Path) -> None:
    """`GET /model` says so; `/cloze` answers, with and without choices; the others are refused by name."""
    checkpoint = build_tiny_checkpoint(
        tmp_path / "stacked", architecture="stacked_bidirectional", forward_layers=3
    )

    async def question(client: httpx.AsyncClient) -> Any:
        model = (await client.get("/model")).json()
        open_ = await client.post("/cloze", json={"text": "I like the ____ on the mat."})
        choices = await client.post(
            "/cloze", json={"text": "I ____ the cat", "choices": ["like", "store"]}
        )
        refused = [
            await client.post(path, json={"text": "I like"}) for path in ("/predict", "/score")
        ]
        return model, open_, choices, refused

    model, open_, choices, refused = ask_real(question, checkpoint.directory)
    assert model["capabilities"] == ["cloze"]
    assert open_.status_code == choices.status_code == 200
    (blank,) = choices.json()["results"][0]["blanks"]
    assert sum(each["probability"] for each in blank["candidates"]) == pytest.approx(1)
    for answer in refused:
        assert answer.status_code == 422
        assert "can answer cloze" in answer.text


def test_an_ngram_is_served_in_a_checkpoints_place(tiny_ngram: Path) -> None:
    """What `python -m training ngram` wrote answers every question, and says how many n-grams it has."""

    async def question(client: httpx.AsyncClient) -> Any:
        model = (await client.get("/model")).json()
        bodies = {
            "/predict": "I like the ",
            "/cloze": "I like the ____ on the mat.",
            "/score": "I like the cat",
        }
        return model, [
            await client.post(path, json={"text": text}) for path, text in bodies.items()
        ]

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
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    path: str,
    cpus: int,
) -> None:
    """The quotas from the process's group up to the root bound the 64 CPUs of the machine."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    own = tmp_path / "self"
    own.write_text(f"0::/{path}\n")
    assert available_cpus(tmp_path, own) == cpus
    assert available_cpus(tmp_path / "none", tmp_path / "none") == 64


def test_threads_leave_a_cpu_for_the_event_loop() -> None:
    """Unless set, a network step uses at most 4 threads, and one CPU fewer than there are."""
    assert network_threads(3) == 3
    assert network_threads(0) == max(1, min(available_cpus() - 1, 4))
