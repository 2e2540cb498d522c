"""The adapter for lm-eval against a real server; a slow test runs lm-eval itself."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.service.server_process import REAL, ROOT, ServerProcess, clean_environment, serving

ADAPTER = ROOT / "clients" / "lm_eval" / "lacuna_lm_eval.py"
PYTHON = os.environ.get("LM_EVAL_PYTHON")
NEW, CUP, PHONE = "I bought a new", "She drank a cup of", "我的手机坏了,我打算买一部新"


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """One server with the bundled checkpoint for all tests."""
    with serving(REAL, "--device", "cpu") as running:
        yield running


@pytest.fixture
def model(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the adapter's model without lm-eval: a fake of the two names that it imports."""
    pytest.importorskip("requests")
    fakes: dict[str, Any] = {
        "lm_eval": {},
        "lm_eval.api": {},
        "lm_eval.api.model": {"LM": object},
        "lm_eval.api.registry": {"register_model": lambda _: lambda model: model},
    }
    for name, members in fakes.items():
        module = ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("lacuna_lm_eval", ADAPTER)
    assert spec is not None and spec.loader is not None
    adapter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(adapter)
    return adapter.LacunaLM("http://{}:{}/".format(*server.address))


def instances(*arguments: tuple[Any, ...]) -> list[Any]:
    """Return requests as lm-eval passes them."""
    return [SimpleNamespace(args=each) for each in arguments]


def likelihoods(model: Any, *pairs: tuple[str, str]) -> list[float]:
    """Return log P(continuation | context)."""
    return [log_prob for log_prob, _ in model.loglikelihood(instances(*pairs), disable_tqdm=True)]


def scored(server: ServerProcess, text: str, context: str = "") -> float:
    """Return the log-probability of a text, as /score has it."""
    answer = server.ask("POST", "/score", {"text": text, "context": context}).json()
    return float(answer["results"][0]["log_probability"])


@pytest.mark.parametrize(
    ("context", "space", "word"), [(NEW, " ", "car"), (CUP, " ", "coffee"), (PHONE, "", "手机")]
)
def test_the_space_before_a_word_counts_once(
    server: ServerProcess, model: Any, context: str, space: str, word: str
) -> None:
    """P(" car" | "a new") is that of the space and of all tokens after it that begin with "car"."""
    tops = []
    for prompt in (context, context + space):
        sent = {"model": "lacuna", "prompt": prompt, "max_tokens": 1, "logprobs": 20}
        choice = server.ask("POST", "/v1/completions", sent).json()["choices"][0]
        tops.append(choice["logprobs"]["top_logprobs"][0])
    prob = sum(math.exp(log_prob) for token, log_prob in tops[1].items() if token.startswith(word))
    expected = math.log(prob) + (tops[0][space] if space else 0)
    (found,) = likelihoods(model, (context, space + word))
    # The cache of words changes completions a little, and a few tokens are not among the top.
    assert found == pytest.approx(expected, abs=0.1)


def test_a_context_may_end_inside_a_token(model: Any) -> None:
    """Two continuations have one ratio, whether the context ends inside a word or before it."""
    inside = likelihoods(model, (NEW, "er phone"), (NEW, " phone"))
    before = likelihoods(model, ("I bought a ", "newer phone"), ("I bought a ", "new phone"))
    assert inside[0] - inside[1] == pytest.approx(before[0] - before[1], abs=1e-4)


def test_probable_words_are_greedy(model: Any) -> None:
    """The most probable continuation is marked, whatever space its last token ends in."""
    pairs = [(CUP, " coffee"), (CUP, " tea"), (CUP, " phone"), (PHONE, "手机"), (PHONE, "苹果")]
    found = model.loglikelihood(instances(*pairs), disable_tqdm=True)
    assert [greedy for _, greedy in found] == [True, False, False, True, False]
    assert found[0] > found[1] > found[2] and found[3] > found[4]


@pytest.mark.parametrize("text", [f"{CUP} tea.", f"{PHONE}手机。", "Two\nlines, 两行。"])
def test_rolling_equals_score(server: ServerProcess, model: Any, text: str) -> None:
    """A text has the log-probability of /score; in windows, because it is long, almost that."""
    (found,) = model.loglikelihood_rolling(instances((text,)), disable_tqdm=True)
    assert found == scored(server, text)
    long = " ".join([text] * 6)
    model._longest = len(long) // 2
    (windows,) = model.loglikelihood_rolling(instances((long,)), disable_tqdm=True)
    assert windows == pytest.approx(scored(server, long), rel=0.1)


def test_generation_ends_before_a_stop_string_and_is_longer_than_one_request(model: Any) -> None:
    """Text of several requests goes on as that of one would, and is cut before a stop string."""
    until = {"until": [], "max_gen_toks": 6}
    (whole,) = model.generate_until(instances((CUP, until)), disable_tqdm=True)
    model._max_tokens = 2
    assert model.generate_until(instances((CUP, until)), disable_tqdm=True) == [whole]
    word = whole.split()[1]
    stopped = instances((CUP, until | {"until": ["\n\n", word]}))
    assert model.generate_until(stopped, disable_tqdm=True) == [whole.partition(word)[0]]


def test_refusals_are_errors_with_the_reason(model: Any) -> None:
    """Both of the first request, as without a key, and of later ones."""
    with pytest.raises(RuntimeError, match=r"/model answered 404: .*\"Not Found\""):
        type(model)(f"{model._base_url}/elsewhere")
    with pytest.raises(RuntimeError, match=r"/score answered 422: .*/text: is empty"):
        model.loglikelihood_rolling(instances(("",)), disable_tqdm=True)


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="no LM_EVAL_PYTHON with lm_eval: make clients")
def test_lm_eval_runs_its_tasks(server: ServerProcess, tmp_path: Path) -> None:
    """Choices, rolling text and generation have the figures that the service's answers imply."""
    rows = [{"context": CUP, "choices": ["phone", "coffee"], "text": f"{CUP} tea."}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "doc_to_text": "{{context}}",
    }
    tasks: dict[str, dict[str, Any]] = {
        "choices": {
            "output_type": "multiple_choice",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": 1,
            "metric_list": [{"metric": "acc"}],
        },
        "rolling": {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "bits_per_byte"}],
        },
        "generation": {
            "output_type": "generate_until",
            "doc_to_target": "coffee",
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 2},
            "metric_list": [{"metric": "exact_match", "ignore_punctuation": True}],
        },
    }
    for name, task in tasks.items():  # JSON is YAML
        (tmp_path / f"{name}.yaml").write_text(json.dumps({"task": name} | common | task))
    address = "http://{}:{}".format(*server.address)
    arguments = ["--model", "lacuna", "--model_args", f"base_url={address}"]
    arguments += ["--include_path", str(tmp_path), "--tasks", ",".join(tasks)]
    subprocess.run(
        [str(PYTHON), str(ADAPTER), "run", *arguments, "--output_path", str(tmp_path / "out")],
        env=clean_environment() | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")},
        check=True,
    )
    (written,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(written.read_text())["results"]
    assert results["choices"]["acc,none"] == 1
    bits = -scored(server, rows[0]["text"]) / math.log(2) / len(rows[0]["text"])
    assert results["rolling"]["bits_per_byte,none"] == pytest.approx(bits)
    assert "exact_match,none" in results["generation"]
