"""Tests of the OpenAPI document: its examples and headers, and clients generated from it."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from tests.clients.keyed_server import HEADERS, KEY
from tests.service.server_process import ServerProcess

TOOLS = ("openapi-python-client", "mypy", "openapi-typescript", "tsc")
MISSING = ", ".join([tool for tool in TOOLS if not shutil.which(tool)])
# Python and TypeScript as users of generated clients write them.
PYTHON_USE = """
from lacuna_client import AuthenticatedClient
from lacuna_client.api.questions import fill_blanks, predict
from lacuna_client.models import ClozeAnswer, ClozeRequest, PredictAnswer, PredictRequest

client = AuthenticatedClient(base_url="ADDRESS", token="KEY")
words = predict.sync(client=client, body=PredictRequest(text="How are", top_k=1))
assert isinstance(words, PredictAnswer)
ended: bool = words.results[0].candidates[0].ended
filled = fill_blanks.sync(client=client, body=ClozeRequest(text=["a ____"], choices=["b", "c"]))
assert isinstance(filled, ClozeAnswer)
print(words.results[0].candidates[0].word, ended, filled.results[0].filled)
"""
TYPESCRIPT_USE = """
import type { paths } from "./lacuna";
type Call = paths["/predict"]["post"];
const body: Call["requestBody"]["content"]["application/json"] = { text: ["a"], top_k: 1 };
export function best(
  answer: Call["responses"][200]["content"]["application/json"],
  wait: paths["/predict"]["post"]["responses"][429]["headers"]["Retry-After"],
): [string, boolean, number | undefined, typeof body] {
  const [first] = answer.results[0].candidates;
  return [first.word, first.ended, wait, body];
}
"""


def operations(document: Any) -> Iterator[tuple[str, str, Any]]:
    """List path, method and content of each operation."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def check(document: Any, media: Any, value: Any) -> None:
    """Fail unless *value* is valid against the schema of a media type."""
    schema = {**media["schema"], "components": document["components"]}
    jsonschema_rs.validator_for(schema).validate(value)


def test_operations_have_summaries_tags_examples_and_headers(document: Any) -> None:
    """Each operation has them; examples of bodies, answers and errors fit their schemas."""
    tags = {tag["name"] for tag in document["tags"]}
    headers = document["components"]["headers"]
    for header in headers.values():
        check(document, header, header["example"])
    for path, _, operation in operations(document):
        assert set(operation["tags"]) <= tags and len(operation["tags"]) == 1
        assert re.fullmatch("[A-Z][A-Za-z() ]{9,40}", operation["summary"])
        assert operation["summary"].lower() not in operation["description"].lower()
        examples = []
        for media in operation.get("requestBody", {"content": {}})["content"].values():
            examples += [(media, each["value"]) for each in media["examples"].values()]
        for status, response in operation["responses"].items():
            names = {each["$ref"].rpartition("/")[2] for each in response["headers"].values()}
            assert names == response["headers"].keys() and names <= headers.keys()
            assert "X-Request-Id" in names and ("Retry-After" in names) == (status in "429 503")
            media = next(iter(response["content"].values()))
            if status == "200":
                examples += [(media, each["value"]) for each in media["examples"].values()]
            else:
                assert media["example"]["status"] == int(status)
                assert ("error" in media["example"]) == (path[:4] in ("/v1/", "/hf/"))
                examples.append((media, media["example"]))
        for media, value in examples:
            check(document, media, value)


def test_examples_are_answered_as_the_document_says(document: Any, server: ServerProcess) -> None:
    """Each example gets 200 and the declared headers; the first one an answer of the same form."""
    asked = 0
    for path, method, operation in operations(document):
        if path.startswith("/admin/") or path == "/metrics":  # this key may not
            continue
        content = operation.get("requestBody", {}).get("content", {})
        bodies = (
            [each["value"] for each in content["application/json"]["examples"].values()]
            if content
            else [None]
        )
        declared = operation["responses"]["200"]
        kind, media = next(iter(declared["content"].items()))
        for number, body in enumerate(bodies):
            answer = server.ask(method.upper(), path.replace("{id}", "lacuna"), body, HEADERS)
            assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (200, kind)
            assert {name.lower() for name in declared["headers"]} <= answer.headers.keys()
            value = answer.json() if kind == "application/json" else answer.body.decode()
            check(document, media, value)
            if number == 0 and path != "/model":  # whose sizes and scores depend on the checkpoint
                assert form(value) == form(media["examples"]["1"]["value"])
            asked += 1
    assert asked == 19


def form(value: Any) -> Any:
    """Return the names in a document, and the lengths of its lists."""
    if isinstance(value, dict):
        return {name: form(each) for name, each in value.items()}
    return [form(each) for each in value] if isinstance(value, list) else None


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"not on PATH: {MISSING}; run make clients")
def test_generated_clients_have_types_that_work(
    server: ServerProcess, address: str, tmp_path: Path
) -> None:
    """Clients are generated without warnings; what uses them passes mypy and tsc, and runs."""
    folder = tmp_path / "client"
    document, python = tmp_path / "openapi.json", Path(shutil.which(TOOLS[0]) or "")
    document.write_bytes(server.ask("GET", "/openapi.json").body)
    generate = [TOOLS[0], "generate", "--fail-on-warning", "--meta", "setup"]
    run(tmp_path, *generate, "--path", str(document), "--output-path", str(folder))
    (folder / "use.py").write_text(PYTHON_USE.replace("ADDRESS", address).replace("KEY", KEY))
    (folder / "use.ts").write_text(TYPESCRIPT_USE)
    run(folder, "mypy", "--strict", "use.py", "lacuna_client")
    printed = run(folder, str(python.with_name("python")), "use.py")
    assert re.fullmatch(r"\w+ (True|False) a [bc]\n", printed)
    optional = "--default-non-nullable=false"  # or it would demand fields that have a default
    run(folder, "openapi-typescript", str(document), "--output", "lacuna.ts", optional)
    run(folder, "tsc", "--noEmit", "--strict", "lacuna.ts", "use.ts")


def run(folder: Path, *command: str) -> str:
    """Run a command, which must succeed, and return its output."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout
