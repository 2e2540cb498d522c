r"""Run lm-eval (EleutherAI's lm-evaluation-harness) on a Lacuna service that is already running.

    python lacuna_lm_eval.py run --model lacuna --model_args base_url=http://127.0.0.1:8000 \
        --include_path my_tasks --tasks my_task

An API key is read from LACUNA_KEY of the environment: lm-eval writes arguments to its results.

A token may end in the space after its word, so it may cross the end of a context or of a
continuation: "new " does in "a new" + " phone". So let B(t) be the log-probability that a text
begins with t, however its last token goes on. With S, the log-probability of a text, and any mark m

    B(t) = S(t m) - log P(m | t)

as /score divides P(m | t) by the sum over all tokens that cross the end of t. The log-probability
of continuation k after context c is B(c k) - B(c). The space before k counts once, as part of k.
"""

import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import requests
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from tqdm import tqdm
from urllib3.util import Retry

MARK = "."
# A service that is busy answers 429 or 503, with Retry-After.
RETRY = Retry(20, status_forcelist=(429, 503), allowed_methods=None, backoff_factor=0.1)


@register_model("lacuna")
class LacunaLM(LM):
    """A service at *base_url*. Arguments for models in lm-eval's own process have no effect."""

    def __init__(self, base_url: str = "http://127.0.0.1:8000", **_: Any) -> None:
        super().__init__()
        self._base_url = base_url.rstrip("/")
        self._session = requests.Session()
        self._session.mount(self._base_url, requests.adapters.HTTPAdapter(max_retries=RETRY))
        if key := os.environ.get("LACUNA_KEY"):
            self._session.headers["Authorization"] = f"Bearer {key}"
        limits = self._ask("GET", "/model")["limits"]
        self._max_tokens, self._longest = limits["tokens"], limits["characters"] - len(MARK)

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Return log P(continuation | context), and whether greedy completion writes it, too.

        Completion uses the cache of the context's words; log P does not, like /score.
        """
        bar = tqdm(requests, disable=disable_tqdm)
        groups = groupby(bar, lambda each: each.args[0])
        return [pair for context, group in groups for pair in self._after(context, group)]

    def _after(self, context: str, group: Iterator[Any]) -> Iterator[tuple[float, bool]]:
        continuations = [each.args[1] for each in group]
        context = context[-max(1, self._longest - max(map(len, continuations))) :]
        before, first = self._begins(context)
        found = [self._begins(context + each) for each in continuations]
        # A token more, as the first one may only end a word of the context.
        tokens = min(max(last for _, last in found) - first + 1, self._max_tokens)
        written = self._complete(context, max(1, tokens), logprobs=0)
        ends = [place - len(context) for place in written["logprobs"]["text_offset"][1:]]
        greedy = {written["text"][:end].rstrip(" ") for end in (*ends, None)}
        for (log_prob, _), continuation in zip(found, continuations, strict=True):
            yield log_prob - before, continuation.rstrip(" ") in greedy

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Return log P(text), as /score does."""
        return [self._whole(each.args[0]) for each in tqdm(requests, disable=disable_tqdm)]

    def _whole(self, text: str) -> float:
        """Return log P(text); too long a text is read in windows that overlap by half."""
        if len(text) <= self._longest:
            return float(self._score(text)["log_probability"])
        half = self._longest // 2
        window, overlap = self._begins(text[: 2 * half]), self._begins(text[half : 2 * half])
        return window[0] - overlap[0] + self._whole(text[half:])

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return completions: the most probable tokens unless there is a temperature."""
        return [self._generate(*each.args) for each in tqdm(requests, disable=disable_tqdm)]

    def _generate(self, context: str, options: dict[str, Any]) -> str:
        until = options.get("until") or []
        stops = [until] if isinstance(until, str) else until
        text, left = "", options.get("max_gen_toks", 256)
        while left > 0 and not any(stop in text for stop in stops):
            prompt, step = (context + text)[-self._longest :], min(left, self._max_tokens)
            text += self._complete(prompt, step, options.get("temperature") or 0)["text"]
            left -= step
        return text[: min([text.find(stop) for stop in stops if stop in text], default=None)]

    def _begins(self, text: str) -> tuple[float, int]:
        """Return B(text), and the number of its tokens and the mark."""
        marked, mark = self._score(text + MARK), self._score(MARK, context=text)
        return marked["log_probability"] - mark["log_probability"], marked["tokens"]

    def _score(self, text: str, context: str = "") -> Any:
        return self._ask("POST", "/score", text=text, context=context)["results"][0]

    def _complete(self, prompt: str, tokens: int, temperature: float = 0, **more: Any) -> Any:
        more |= {"prompt": prompt, "max_tokens": tokens, "temperature": temperature}
        return self._ask("POST", "/v1/completions", model="lacuna", **more)["choices"][0]

    def _ask(self, method: str, path: str, **body: Any) -> Any:
        answer = self._session.request(method, self._base_url + path, json=body or None)
        if not answer.ok:
            raise RuntimeError(f"{path} answered {answer.status_code}: {answer.text}")
        return answer.json()


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
