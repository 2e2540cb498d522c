"""Calls of other client libraries, as their users write them. Run by test_clients.py.

It takes the address of a service, and prints a row of JSON for each call whose library is installed
in the interpreter that runs it: call, library, version, and an empty string or what went wrong.
"""

import importlib.metadata
import json
import sys
from collections.abc import Callable
from typing import Any

PROMPT = "Last night we went to the"
CALLS: list[tuple[str, Callable[[str], Any]]] = []  # library and call


def call(library: str) -> Callable[[Callable[[str], Any]], Callable[[str], Any]]:
    """Register a call of a library."""
    return lambda function: CALLS.append((library, function)) or function  # type: ignore[func-returns-value]


def openai(address: str) -> Any:
    """Return OpenAI's client."""
    from openai import OpenAI

    return OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


@call("openai")
def models_list_and_retrieve(address: str) -> None:
    """List the model, and find it by its name."""
    (model,) = openai(address).models.list()
    assert openai(address).models.retrieve(model.id) == model


@call("openai")
def completions_create(address: str) -> None:
    """Complete two prompts twice each, with echo and log-probabilities."""
    answer = openai(address).completions.create(
        model="lacuna", prompt=[PROMPT, "我昨天"], n=2, echo=True, logprobs=2, seed=1, max_tokens=3
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert all(choice.finish_reason == "length" for choice in answer.choices)
    for choice in answer.choices:
        assert "".join(choice.logprobs.tokens) == choice.text
        assert choice.logprobs.top_logprobs[0] is None and len(choice.logprobs.tokens) > 3
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12


@call("openai")
def completions_create_stream(address: str) -> None:
    """Stream the same text that comes at once, with its usage."""
    options: Any = {"model": "lacuna", "prompt": PROMPT, "temperature": 0, "max_tokens": 8}
    whole = openai(address).completions.create(**options)
    *parts, last = openai(address).completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    )
    texts = [choice.text for part in parts for choice in part.choices]
    assert "".join(texts) == whole.choices[0].text and len(texts) == 9
    assert last.usage == whole.usage and not last.choices


@call("openai")
def completions_create_suffix_stop_ids(address: str) -> None:
    """Fill in the middle; stop before a string; continue token ids."""
    create = openai(address).completions.create
    filled = create(model="lacuna", prompt="I have", suffix=" apples.", temperature=0)
    assert filled.choices[0].text.strip().isalpha() and filled.choices[0].finish_reason == "stop"
    stopped = create(model="lacuna", prompt=PROMPT, temperature=0, stop=[" ", "\n"], max_tokens=8)
    assert stopped.choices[0].text == "" and stopped.choices[0].finish_reason == "stop"
    ids = create(model="lacuna", prompt=[[1, 600], [1, 700]], echo=True, logprobs=1, max_tokens=1)
    assert [len(choice.logprobs.tokens) for choice in ids.choices] == [3, 3]


@call("openai")
def errors(address: str) -> None:
    """Errors are the classes that users catch, with the reason."""
    from openai import BadRequestError, NotFoundError

    for model, tokens, expected in (("x", 1, NotFoundError), ("lacuna", 999, BadRequestError)):
        try:
            openai(address).completions.create(model=model, prompt="a", max_tokens=tokens)
        except expected as error:
            assert error.body["param"] in ("model", "max_tokens") and error.body["message"]
        else:
            raise AssertionError(f"no {expected.__name__}")


@call("langchain-openai")
def invoke_batch_stream(address: str) -> None:
    """LangChain sends lists, fields without effect, and many nulls."""
    from langchain_openai import OpenAI

    model = OpenAI(
        model="lacuna", base_url=f"{address}/v1", api_key="none", max_tokens=4, temperature=0
    )
    text = model.invoke(PROMPT)
    assert text and model.batch([PROMPT, PROMPT]) == [text, text]
    assert "".join(model.stream(PROMPT)) == text
    assert model.bind(stop=[" "]).invoke(PROMPT) == ""


@call("llama-index-llms-openai-like")
def complete_and_stream_complete(address: str) -> None:
    """LlamaIndex, not as a chat model."""
    from llama_index.llms.openai_like import OpenAILike

    model = OpenAILike(
        model="lacuna", api_base=f"{address}/v1", api_key="none", is_chat_model=False, max_tokens=4
    )
    assert model.complete(PROMPT).text
    assert [*model.stream_complete(PROMPT)][-1].text


@call("litellm")
def text_completion(address: str) -> None:
    """LiteLLM by both of its routes, and streamed."""
    import litellm

    for route in ("text-completion-openai", "hosted_vllm"):
        options: Any = {
            "model": f"{route}/lacuna", "api_base": f"{address}/v1", "api_key": "none",
            "prompt": PROMPT, "max_tokens": 4, "temperature": 0,
        }  # fmt: skip
        text = litellm.text_completion(**options).choices[0].text
        parts = litellm.text_completion(**options, stream=True)
        assert (
            text and "".join([part.choices[0].text or "" for part in parts]).strip() == text.strip()
        )


@call("huggingface_hub")
def fill_mask(address: str) -> None:
    """Fill one mask openly and from targets, and two at a time; a mistake is shown."""
    from huggingface_hub import InferenceClient
    from huggingface_hub.errors import HfHubHTTPError

    client = InferenceClient(model=f"{address}/hf/fill-mask")
    words = client.fill_mask("I have <mask> apples.", top_k=3)
    assert len(words) == 3 and words[0].sequence == f"I have {words[0].token_str} apples."
    targets = client.fill_mask("I have [MASK] apples.", targets=["two", "too"])
    assert {word.token_str for word in targets} == {"two", "too"} and targets[0].token_str == "two"
    several: Any = client.fill_mask("I like <mask> and <mask>.", top_k=2)
    assert [len(each) for each in several] == [2, 2]
    try:
        client.fill_mask("nothing to fill")
    except HfHubHTTPError as error:
        assert "has no blank" in str(error)
    else:
        raise AssertionError("no error")


if __name__ == "__main__":
    for library, function in CALLS:
        try:
            version = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
        problem = ""
        try:
            function(sys.argv[1])
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        print(json.dumps([function.__name__, library, version, problem]))  # noqa: T201
