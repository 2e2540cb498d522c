"""The two clients, which differ only in how they sleep and send."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Self, TypeVar, Unpack

import httpx

from lacuna_client.contract import (
    Answer,
    ClozeOptions,
    ClozeResult,
    Model,
    PredictOptions,
    PredictResult,
    ScoreOptions,
    ScoreResult,
    Text,
)
from lacuna_client.exchange import Exchange, Settings

A = TypeVar("A")


@dataclass(eq=False, kw_only=True)
class Client(Settings):
    """Asks one service. Methods raise `Problem` and `httpx.TransportError`. Threads may share it.

    Arguments are the address and `Settings`.
    """

    transport: httpx.BaseTransport | None = None
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        self._http = httpx.Client(**self.connection(), transport=self.transport)

    def predict(self, text: Text, **options: Unpack[PredictOptions]) -> Answer[PredictResult]:
        """Predict the next word, or the rest of the word that the text stops in."""
        return self._send(Answer[PredictResult], "predict", {**options, "text": text})

    def cloze(self, text: Text, **options: Unpack[ClozeOptions]) -> Answer[ClozeResult]:
        """Fill the blanks of a text, openly or from `choices`."""
        return self._send(Answer[ClozeResult], "cloze", {**options, "text": text})

    def score(self, text: Text, **options: Unpack[ScoreOptions]) -> Answer[ScoreResult]:
        """Compute the probability of a text, perhaps after a `context`."""
        return self._send(Answer[ScoreResult], "score", {**options, "text": text})

    def model(self) -> Model:
        """Describe the checkpoint that answers, and the limits of a request."""
        return self._send(Model, "model", None)

    def _send(self, form: type[A], path: str, body: Mapping[str, object] | None) -> A:
        exchange, answer = Exchange(self, form, path, body), None
        while answer is None:
            self.sleep(exchange.pause_seconds)
            try:
                answer = exchange.answered(self._http.request(**exchange.request))
            except httpx.TransportError as error:
                exchange.failed(error)
        return answer

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(eq=False, kw_only=True)
class AsyncClient(Settings):
    """Asks one service, as `Client` does. With trio, pass `sleep=trio.sleep`."""

    transport: httpx.AsyncBaseTransport | None = None
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    def __post_init__(self) -> None:
        self._http = httpx.AsyncClient(**self.connection(), transport=self.transport)

    async def predict(self, text: Text, **options: Unpack[PredictOptions]) -> Answer[PredictResult]:
        """Predict the next word, or the rest of the word that the text stops in."""
        return await self._send(Answer[PredictResult], "predict", {**options, "text": text})

    async def cloze(self, text: Text, **options: Unpack[ClozeOptions]) -> Answer[ClozeResult]:
        """Fill the blanks of a text, openly or from `choices`."""
        return await self._send(Answer[ClozeResult], "cloze", {**options, "text": text})

    async def score(self, text: Text, **options: Unpack[ScoreOptions]) -> Answer[ScoreResult]:
        """Compute the probability of a text, perhaps after a `context`."""
        return await self._send(Answer[ScoreResult], "score", {**options, "text": text})

    async def model(self) -> Model:
        """Describe the checkpoint that answers, and the limits of a request."""
        return await self._send(Model, "model", None)

    async def _send(self, form: type[A], path: str, body: Mapping[str, object] | None) -> A:
        exchange, answer = Exchange(self, form, path, body), None
        while answer is None:
            await self.sleep(exchange.pause_seconds)
            try:
                answer = exchange.answered(await self._http.request(**exchange.request))
            except httpx.TransportError as error:
                exchange.failed(error)
        return answer

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
