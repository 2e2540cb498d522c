"""The examples against a real server, and the filter for Rime in Rime itself."""

import functools
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.service.server_process import REAL, ROOT, ServerProcess, serving

EXAMPLES = ROOT / "examples"
BROWSER = shutil.which("chromium-headless-shell") or shutil.which("chromium")
RIME_LUA = [*Path("/usr/lib").glob("**/rime-plugins/librime-lua.so")]
ENGLISH = """Last night we went to the theatre. She drank a cup of coffee before the meeting.
The children were playing in the garden. He has been working in the hospital for ten years.
It was raining heavily, so we stayed at home. We write [MASK] for a blank.
The doctor told him to stop smoking."""
CHINESE = """我的手机坏了，我打算买一部新手机。昨天晚上我们去看电影了。他在医院工作了十年。
今天天气很好，我们去公园散步吧。妈妈在厨房做饭。我每天坐地铁上班。"""
# Breaks out of JSON and of a shell's quotes, if it is not escaped.
HOSTILE = """"\\'$(touch hit);touch hit'"""
SCHEMA = """schema: {schema_id: tiny, name: tiny, version: "1"}
engine:
  processors: [speller, selector, express_editor]
  segmentors: [abc_segmentor]
  translators: [script_translator]
  filters: ["lua_filter@*lacuna"]
speller: {alphabet: abcdefghijklmnopqrstuvwxyz}
translator: {dictionary: tiny, enable_user_dict: false}
"""
DICTIONARY = f"""---
name: tiny
version: "1"
sort: original
...
我打算买一部新\tw
他最大的爱好是\tt
{HOSTILE}\tshou ji
手迹\tshou ji
手机\tshou ji
收集\tshou ji
手\tshou
"""


class Site(NamedTuple):
    """A service, and the address of the project's files on another port, whose pages may ask it."""

    server: ServerProcess
    service: str
    files: str


class _Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Write nothing."""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """One server with the bundled checkpoint for all tests."""
    handler = functools.partial(_Files, directory=ROOT)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as files:
        thread = threading.Thread(target=files.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{files.server_port}"
        try:
            with serving(REAL, "--device", "cpu", "--allowed-origins", address) as server:
                yield Site(server, "http://{}:{}".format(*server.address), address)
        finally:
            files.shutdown()
            thread.join()


def run(site: Site, name: str, text: str, *options: str) -> str:
    """Return what an example prints for a text."""
    command = [sys.executable, "-X", "utf8", str(EXAMPLES / name), "--url", site.service, *options]
    done = subprocess.run(
        command, input=text, capture_output=True, check=True, text=True, encoding="utf-8"
    )
    return done.stdout


def test_rescoring_puts_the_probable_guess_first(site: Site) -> None:
    """Of guesses that sound alike the probable one wins, unless its own score is much worse."""
    english = "-3\tI want to wreck a nice peach.\n-3\tI want to recognise speech.\n"
    lines = run(site, "rescore.py", english).splitlines()
    assert lines[0].endswith("\tI want to recognise speech.")
    lines = run(site, "rescore.py", english, "--weight", "0").splitlines()
    assert [line.partition("\t")[0] for line in lines] == ["-3.00", "-3.00"]
    for context, first in (("我打算买一部新", "手机"), ("他最大的爱好是", "收集")):
        printed = run(site, "rescore.py", "0\t手机\n0\t收集\n", "--context", context)
        assert printed.splitlines()[0].endswith(first)
    assert run(site, "rescore.py", "0\t手机\n99\t手迹\n").splitlines()[0].endswith("手迹")
    windows = english.replace("\n", "\r\n")
    assert run(site, "rescore.py", f"\ufeff{windows}") == run(site, "rescore.py", english)


def test_examples_print_why_a_request_is_refused(site: Site) -> None:
    """The message is the service's, without a traceback."""
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run(site, "rescore.py", "0\ta\n" * 65)
    assert "at most 64" in caught.value.stderr and "Traceback" not in caught.value.stderr


@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
def test_exercises_have_a_right_word_and_three_wrong_ones(site: Site, text: str) -> None:
    """The word of the key makes the sentence of the text, and is by far the most probable one."""
    *lines, key = run(site, "exercises.py", text).splitlines()
    letters = re.findall(r"\d+ ([A-D])", key)
    assert len(letters) == len(lines) // 2 >= 4
    for question, offered, letter in zip(lines[::2], lines[1::2], letters, strict=True):
        sentence = question.partition(" ")[2]
        options = dict(each.split(". ") for each in offered.strip().split("   "))
        assert list(options) == list("ABCD") and len(set(options.values())) == 4
        assert sentence.replace("____", options[letter]) in text
        body = {"text": sentence, "choices": list(options.values())}
        (blank,) = site.server.ask("POST", "/cloze", body).json()["results"][0]["blanks"]
        best = blank["candidates"][0]
        assert best["word"] == options[letter] and best["probability"] > 0.8


@pytest.mark.skipif(not BROWSER, reason="no browser: apt-get install chromium")
def test_ghost_text_is_accepted_with_tab(site: Site) -> None:
    """The page shows the rest of the word and more; Tab writes it, and it can be undone."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"{site.files}/examples/ghost-text.html?service={site.service}")
        box, ghost = page.get_by_label("Tab accepts"), page.locator("#ghost")
        box.press_sequentially("Last night we went to the theat")
        sync_api.expect(ghost).to_have_text(re.compile("^(er|re)"), timeout=30_000)
        shown = ghost.inner_text()
        box.press("Tab")
        sync_api.expect(box).to_have_value(f"Last night we went to the theat{shown}")
        box.press("ArrowLeft")
        box.press("Tab")
        sync_api.expect(box).to_have_value(f"Last night we went to the theat{shown}")
        box.focus()
        box.press("Control+z")
        sync_api.expect(box).to_have_value("Last night we went to the theat")
        browser.close()


@pytest.mark.skipif(not RIME_LUA, reason="no Rime with Lua: apt-get install librime-plugin-lua")
def test_rime_orders_candidates_by_what_was_committed(site: Site, tmp_path: Path) -> None:
    """The filter ranks candidates after each context; no text breaks out of its quotes."""
    orders = [type_keys(tmp_path, site.service, context, "shouji") for context in ("w ", "t ")]
    assert [order[0] for order in orders] == ["手机", "收集"]
    for order in orders:
        assert sorted(order) == sorted([HOSTILE, "手迹", "手机", "收集", "手"])
        assert order[3] == HOSTILE  # the last of those for all letters
    assert not (tmp_path / "hit").exists()


@pytest.mark.skipif(not RIME_LUA, reason="no Rime with Lua: apt-get install librime-plugin-lua")
@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "'; touch hit; '"])
def test_rime_keeps_its_order_without_an_answer(tmp_path: Path, url: str) -> None:
    """If the service does not answer, candidates have the order of the dictionary."""
    order = type_keys(tmp_path, url, "w ", "shouji")
    assert order == [HOSTILE, "手迹", "手机", "收集", "手"]
    assert not (tmp_path / "hit").exists()


def type_keys(folder: Path, url: str, *keys: str) -> list[str]:
    """Return the candidates of Rime with the filter, after the last keys."""
    (folder / "lua").mkdir(exist_ok=True)
    shutil.copy(EXAMPLES / "rime" / "lacuna.lua", folder / "lua")
    settings = {"url": url, "seconds": "30"}
    default = '{config_version: "1", schema_list: [{schema: tiny}], menu: {page_size: 9}}'
    (folder / "default.yaml").write_text(default)
    (folder / "tiny.schema.yaml").write_text(f"{SCHEMA}lacuna: {json.dumps(settings)}\n")
    (folder / "tiny.dict.yaml").write_text(DICTIONARY, encoding="utf-8")
    session = Path(__file__).with_name("rime_session.py")
    done = subprocess.run(
        [sys.executable, str(session), str(folder), "tiny", *keys],
        cwd=folder,
        capture_output=True,
        check=True,
    )
    return [str(text) for text in json.loads(done.stdout.splitlines()[-1])]
