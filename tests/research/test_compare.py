"""The comparison of the tutorial's systems, from one command to one report."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import research.compare
from model.errors import ReportError, RunError
from research import quality_page
from research.__main__ import COMMANDS
from research.compare import ARMS, PEERS, CompareOptions, _tune, sized
from research.compare_report import BEGIN, END, edge_note, insert, markdown, markers
from research.networks import parameter_count
from research.toy_corpus import write_corpus
from training.__main__ import run_command
from training.data.prepare import PrepareOptions, SourceOptions, prepare
from training.run_state import keep_to

main = partial(run_command, "research", "", COMMANDS)
ROOT = Path(__file__).parents[2]
PUBLISHED = sorted((ROOT / "docs").glob("tutorial*.json"))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[Path]]:
    """One quick comparison: its directory, the prepared data and the text that it asked about."""
    root = tmp_path_factory.mktemp("compare")
    english, chinese = write_corpus(root / "text", 300, 1)
    sources = (
        SourceOptions("english", (str(english),), "en"),
        SourceOptions("chinese", (str(chinese),), "zh"),
    )
    prepared = prepare(
        PrepareOptions(
            root / "prepared", sources, vocabulary_size=600, held_out_share=0.1, threads=1
        )
    )
    texts = []
    for source, name in ((english, "talk_en.txt"), (chinese, "talk_zh.txt")):
        texts.append(root / name)
        texts[-1].write_text(
            "\n".join(source.read_text(encoding="utf-8").splitlines()[:40]), encoding="utf-8"
        )
    command = ["compare", str(prepared), *map(str, texts), "--output", str(root / "out"), "--quick"]
    assert main(command) == 0
    return root / "out", prepared, texts


def figures(directory: Path) -> dict[str, Any]:
    """What a comparison wrote."""
    found: dict[str, Any] = json.loads((directory / "comparison.json").read_text(encoding="utf-8"))
    return found


def test_every_system_of_the_tutorial_is_trained_and_asked(
    compared: tuple[Path, Path, list[Path]],
) -> None:
    """Each network and n-gram is there; each answers what it can: stacked ones fill blanks and know no next word."""
    runs = {run["arm"]: run for run in figures(compared[0])["contestants"]}
    assert set(runs) == {*(arm.name for arm in ARMS), "2-gram", "3-gram"}
    for arm in ARMS:
        for language in ("zh", "en"):
            metrics = runs[arm.name]["evaluation"]["languages"][language]
            assert 0 <= metrics["cloze_top5"]["value"] <= 1
            assert ("next_top3" in metrics) == (arm.architecture != "stacked_bidirectional")
    assert len({run["evaluation"]["questions_sha256"] for run in runs.values()}) == 1
    assert all(run["tokens"] > 0 for run in runs.values())


def test_the_report_has_a_row_for_each(compared: tuple[Path, Path, list[Path]]) -> None:
    """Tables name all systems, the pictures they show are there, and figures alone give the same report again."""
    directory = compared[0]
    text = (directory / "tutorial.md").read_text(encoding="utf-8")
    for arm in ARMS:
        assert text.count(f"| {arm.title} |") == 4  # trained, Chinese, English, tuning
    for picture in ("tutorial-curves.png", "tutorial-answers.png"):
        assert picture in text
        assert (directory / picture).stat().st_size > 10_000
    again = directory.parent / "again"
    assert (
        main(["compare", "--output", str(again), "--report", str(directory / "comparison.json")])
        == 0
    )
    assert (again / "tutorial.md").read_text(encoding="utf-8") == text


def test_hidden_tokens_are_those_of_stacked_networks(
    compared: tuple[Path, Path, list[Path]],
) -> None:
    """Other networks with a gap head are asked for something else, so that column is empty for them."""
    tables = markdown(figures(compared[0])).split("### Chinese")[0]
    hidden = {
        row.split(" | ")[0].strip("| "): row.split(" | ")[5]
        for row in tables.splitlines()
        if " / " in row
    }
    stacked = {arm.title for arm in ARMS if arm.architecture == "stacked_bidirectional"}
    assert {title for title, cell in hidden.items() if cell != "– / –"} - {""} == stacked


def test_networks_at_an_edge_of_the_grid_are_named(compared: tuple[Path, Path, list[Path]]) -> None:
    """Whoever chose the lowest or the highest rate may have a better one beyond; one rate alone is no grid."""
    found = figures(compared[0])
    assert edge_note(found) == []
    rates = [1e-3, 2e-3, 3e-3]
    found["options"]["rates"] = rates
    networks = [run for run in found["contestants"] if "learning_rate" in run]
    for number, run in enumerate(networks):
        run["learning_rate"] = rates[min(number, 1)]
    (note,) = edge_note(found)
    assert note.startswith(f"1 of {len(ARMS)} networks")
    assert note.endswith(f"At 0.001: {ARMS[0].title}.\n")


def test_figures_alone_are_published_whole(
    compared: tuple[Path, Path, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--report --publish`` into a new directory writes document, figures and plots."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "tutorial.md").write_text(f"{BEGIN}{END}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    source = str(compared[0] / "comparison.json")
    assert main(["compare", "--report", source, "--output", "new", "--publish"]) == 0
    assert json.loads(Path("docs/tutorial.json").read_text(encoding="utf-8")) == figures(
        compared[0]
    )
    assert f"| {ARMS[0].title} |" in Path("docs/tutorial.md").read_text(encoding="utf-8")
    assert Path("docs/tutorial-curves.png").exists()


def test_chosen_networks_have_a_section_of_their_own(
    compared: tuple[Path, Path, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--arms --seeds`` trains these alone, says how far seeds lie apart, and leaves the whole comparison alone."""
    _, prepared, texts = compared
    (tmp_path / "docs").mkdir()
    document = Path("docs/tutorial.md")
    monkeypatch.chdir(tmp_path)
    document.write_text(
        f"{BEGIN}all{END}<!-- gru-lstm: begin --><!-- gru-lstm: end -->", encoding="utf-8"
    )
    command = ["compare", str(prepared), *map(str, texts), "--output", "out", "--quick"]
    assert main([*command, "--arms", "lstm", "gru", "--seeds", "2", "--publish"]) == 0
    found = json.loads(Path("docs/tutorial-gru-lstm.json").read_text(encoding="utf-8"))
    assert [(run["arm"], run["seed"]) for run in found["contestants"]] == [
        ("gru", 1), ("lstm", 1), ("gru", 2), ("lstm", 2),
    ]  # fmt: skip
    text = document.read_text(encoding="utf-8")
    assert text.startswith(f"{BEGIN}all{END}<!-- gru-lstm: begin -->")
    assert " ± " in text
    assert "(tutorial-gru-lstm-curves.png)" in text
    assert Path("docs/tutorial-gru-lstm-curves.png").exists()
    assert not Path("docs/tutorial.json").exists()


@pytest.mark.parametrize("path", PUBLISHED, ids=[path.stem for path in PUBLISHED])
def test_the_document_is_what_its_figures_say(path: Path) -> None:
    """Written again from the committed figures, docs/tutorial.md is the same; from other figures it is not."""
    found = json.loads(path.read_text(encoding="utf-8"))
    document = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    assert insert(document, markdown(found), *markers(found)) == document
    found["contestants"][0]["tokens"] *= 2
    assert insert(document, markdown(found), *markers(found)) != document


def test_the_whole_comparison_is_published() -> None:
    """Beside whatever was chosen of it."""
    assert ROOT / "docs" / "tutorial.json" in PUBLISHED


def test_what_is_there_is_not_done_again(
    compared: tuple[Path, Path, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second call trains, counts and asks nothing, and finds the same figures."""
    directory, prepared, texts = compared
    before = figures(directory)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("this was done before")

    for name in ("train", "build", "evaluate", "export"):
        monkeypatch.setattr(research.compare, name, never)
    assert (
        main(["compare", str(prepared), *map(str, texts), "--output", str(directory), "--quick"])
        == 0
    )
    assert figures(directory) == before


def test_parts_of_other_options_are_refused(
    compared: tuple[Path, Path, list[Path]], tmp_path: Path
) -> None:
    """Other minutes or other text are, with the remedy; further seeds are not, nor is a directory without a note."""
    directory, prepared, texts = compared
    command = ["compare", str(prepared), *map(str, texts), "--output", str(directory), "--quick"]
    assert main([*command, "--minutes", "0.03"]) == 2
    assert main([*command[:3], *command[4:]]) == 2
    with pytest.raises(RunError, match="remove it, or name another --output"):
        keep_to(directory, {})
    keep_to(tmp_path, {"seeds": 1})
    keep_to(tmp_path, {"seeds": 1})
    (tmp_path / "begun_with.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match="cannot be read"):
        keep_to(tmp_path, {"seeds": 1})


def test_networks_are_of_the_same_size() -> None:
    """Of 3 million weights, none differs by more than 2 %."""
    options = CompareOptions(Path(), (), Path())
    counts = {arm.name: parameter_count(sized(arm, 16_000, options)) for arm in ARMS}
    assert all(
        abs(count - options.parameters) < 0.02 * options.parameters for count in counts.values()
    ), counts


def test_peers_have_their_published_width_and_ours_as_many_weights() -> None:
    """A published network keeps its shape; each of ours has the weights of the peer beside it, within 2 %."""
    networks = {arm.name: sized(arm, 16_000, CompareOptions(Path(), (), Path())) for arm in PEERS}
    assert (networks["keyboard"].hidden_size, networks["keyboard"].embedding_size) == (670, 96)
    assert (networks["word-lm"].hidden_size, networks["word-lm"].embedding_size) == (200, 200)
    for arm in PEERS:
        if arm.like:
            wanted, found = (parameter_count(networks[name]) for name in (arm.like, arm.name))
            assert abs(found - wanted) < 0.02 * wanted


def test_peers_are_trained_asked_and_reported(
    compared: tuple[Path, Path, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--peers`` trains published networks beside ours, without n-grams, and publishes figures for docs/quality_page.md."""
    _, prepared, texts = compared
    published = tmp_path / "peers.json"
    monkeypatch.setattr(research.compare, "PEERS_PUBLISHED", published)
    command = [
        "compare",
        str(prepared),
        *map(str, texts),
        "--output",
        str(tmp_path / "out"),
        "--quick",
        "--peers",
    ]
    assert main([*command, "--publish"]) == 0
    found = json.loads(published.read_text(encoding="utf-8"))
    assert [run["arm"] for run in found["contestants"]] == [arm.name for arm in PEERS]
    text = quality_page.markdown(tmp_path)
    for arm in PEERS:
        assert text.count(f"| {arm.title} |") == 1


def test_a_rate_that_diverges_at_once_is_left_out(
    compared: tuple[Path, Path, list[Path]], tmp_path: Path
) -> None:
    """The other rates go on, though it came to no line of the log."""
    _, prepared, _ = compared
    options = CompareOptions(
        prepared, (), tmp_path, **research.compare.QUICK | {"log_every_steps": 50}
    )
    network = sized(ARMS[0], 600, replace(options, parameters=60_000))
    assert _tune(ARMS[0].name, network, 1e30, options)["held_out"] is None


def test_too_few_weights_are_refused() -> None:
    """Where the embedding alone is larger, the message says what the smallest network has."""
    with pytest.raises(RunError, match="allow more"):
        sized(ARMS[0], 16_000, CompareOptions(Path(), (), Path(), parameters=1_000_000))


def test_a_document_without_its_markers_is_refused() -> None:
    """Figures go between markers; a text that lacks them is left alone."""
    assert insert(f"a {BEGIN} old {END} z", "new") == f"a {BEGIN}\n\nnew\n\n{END} z"
    with pytest.raises(ReportError, match="lacks"):
        insert("no markers", "new")


def test_a_command_without_data_or_figures_is_refused(tmp_path: Path) -> None:
    """One of the two is needed, and the message says so."""
    assert main(["compare", "--output", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
