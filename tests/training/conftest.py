"""Fixtures of training tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model.config import NetworkConfig
from research.toy_corpus import write_corpus
from tests.training.tiny_config import SIZE
from training.config import DataOptions, OptimizerOptions, RunConfig
from training.data.prepare import PrepareOptions, prepare
from training.data.shards import open_prepared
from training.data.sources import SourceOptions
from training.evaluation import evaluate
from training.export import ExportOptions, export
from training.trainer import train


@pytest.fixture(scope="session", autouse=True)
def few_bootstrap_rounds() -> Iterator[None]:
    """Use few rounds: no test of training or research needs precise intervals."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "BOOTSTRAP_ROUNDS", 40)
        yield


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few hundred lines of the toy corpus, prepared; the English lines are consecutive."""
    root = tmp_path_factory.mktemp("data")
    english, chinese = write_corpus(root / "text", 300, 1)
    sources = (
        SourceOptions("english", str(english), "en", consecutive=True),
        SourceOptions("chinese", str(chinese), "zh", weight=1.5),
    )
    return prepare(
        sources,
        PrepareOptions(output=root / "prepared", vocabulary_size=SIZE, held_out_share=0.1),
    )


@pytest.fixture(scope="session")
def tiny_run(tiny_prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps on the tiny prepared data; read it, never change it."""
    torch.set_num_threads(1)
    directory = tmp_path_factory.mktemp("runs") / "run"
    size = open_prepared(tiny_prepared).tokenizer.size
    config = RunConfig(
        name="tiny",
        data=DataOptions(prepared=str(tiny_prepared), rows=4),
        network=NetworkConfig(size, embedding_size=16, hidden_size=24, gap_hidden_size=12),
        optimizer=OptimizerOptions(learning_rate=1e-2, schedule="constant", warmup_steps=2),
        steps=15,
        evaluate_every_steps=0,
    )
    train(config, directory)
    return directory


@pytest.fixture(scope="session")
def exported(tiny_run: Path) -> Path:
    """The checkpoint of that run; read it, never change it."""
    options = ExportOptions(tiny_run, tiny_run.parent / "checkpoint", version="2")
    return export(options).directory
