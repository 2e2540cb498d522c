"""Tests of the playground in a real browser, in front of a service with a fake model."""

import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.server_process import FAKE, serving

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
expect.set_options(timeout=30_000)  # milliseconds, for busy machines

BROWSER = shutil.which("chromium-headless-shell") or shutil.which("chromium")  # the first is faster
pytestmark = pytest.mark.skipif(not BROWSER, reason="no browser: apt-get install chromium")
STATIC = Path(__file__).parents[2] / "service" / "static"
KEY = "0123456789abcdef"
# Breaks out of every syntax that it could be pasted into, if it is not escaped.
HOSTILE = """'"`</script><img src=x onerror="hit = 1">$(touch hit)`touch hit`\\' ; touch hit #"""
Page = Any


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for all tests."""
    silent = [f"--disable-{each}" for each in ("background-networking", "component-update", "sync")]
    options = ["--no-sandbox", "--disable-gpu", "--no-first-run", *silent]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def home() -> Iterator[str]:
    """Address of a service whose candidates are word0, word1 and so on."""
    with serving(FAKE) as server:
        yield "http://{}:{}/".format(*server.address)


@pytest.fixture
def visit(browser: Any, home: str) -> Iterator[Callable[..., Page]]:
    """Open the playground as a new visitor. It may not fail, break its policy or leave its host."""
    pages, broken = list[Page](), list[str]()

    def visit(**options: Any) -> Page:
        page = browser.new_context(**{"locale": "en-GB", **options}).new_page()
        pages.append(page)
        page.on("pageerror", lambda error: broken.append(str(error)))
        page.on("console", lambda line: "Policy" in line.text and broken.append(line.text))
        page.on("request", lambda each: each.url.startswith(home) or broken.append(each.url))
        page.goto(home)
        expect(page.locator("#strip li:visible").first).to_be_visible()
        return page

    yield visit
    for page in pages:
        page.context.close()
    assert not broken


@pytest.fixture
def page(visit: Callable[..., Page]) -> Page:
    """The playground in English."""
    return visit()


def expect_ghost(page: Page, text: str) -> None:
    """Wait for this ghost text."""
    expect(page.locator("#mirror span").nth(1)).to_have_text(text or "\u200b")


def write(page: Page, text: str) -> None:
    """Replace the text, as if it was pasted."""
    page.locator("#text").fill(text)


def candidate(word: str, append: str, **more: Any) -> dict[str, Any]:
    """Return an answer of /predict with one candidate."""
    first = {"word": word, "append": append, "probability": 1, **more}
    return {"model": {"name": "fake", "version": "1"}, "results": [{"candidates": [first]}]}


def test_keys_accept_and_dismiss_the_ghost(page: Page) -> None:
    """→ takes a word, Tab the rest; Esc hides it until the next input, and lets Tab move on."""
    text = page.locator("#text")
    page.route("**/predict", lambda route: route.fulfill(json=candidate("went", "nt to the sea")))
    for key, result in (("ArrowRight", "We went"), ("Tab", "We went to the sea")):
        write(page, "We we")
        expect_ghost(page, "nt to the sea")
        page.keyboard.press(key)
        expect(text).to_have_value(result)
    expect(text).to_be_focused()
    page.keyboard.press("Control+z")  # what is accepted can be undone
    expect(text).to_have_value("We we")
    expect_ghost(page, "nt to the sea")
    page.keyboard.press("Escape")
    expect_ghost(page, "")
    page.keyboard.press("Tab")
    expect(text).to_have_value("We we")
    expect(text).not_to_be_focused()


def test_suggestions_are_picked_by_key_and_by_click(page: Page) -> None:
    """Alt+3 takes the third one; a click takes one too, and goes on in the text."""
    text, slots = page.locator("#text"), page.locator("#strip button")
    write(page, "a ")
    expect_ghost(page, "word0")  # the answer to this text, not to the one before
    expect(slots).to_contain_text(["50 %", "25 %", "13 %", "6.3 %", "3.1 %"])
    expect(slots.first).to_contain_text("network 100 %")
    page.keyboard.press("Alt+Digit3")
    expect(text).to_have_value("a word2")
    expect_ghost(page, "word0")
    slots.nth(1).click()
    expect(text).to_have_value("a word2word1")
    expect(text).to_be_focused()
    expect(page.locator("#status")).to_have_text("Suggestion: word0")  # for screen readers
    expect(page.locator("#timing")).to_have_text(re.compile(r"model ≤ \d+ ms · round trip \d.+ ms"))


def test_ghosts_of_several_words_and_next_letters(page: Page) -> None:
    """If a service offers words and letters, the ghost has several words, and letters are keys."""
    fields = {"PredictRequest": {"properties": {"words": {}, "letters": {}}}}
    answer = candidate("went", "nt home", steps=[{"append": "nt"}, {"append": " home"}])
    letters = {"next": [{"letter": "n", "probability": 0.9}], "end": 0.1, "other": 0}
    answer["results"][0]["letters"] = letters
    contract = {"components": {"schemas": fields}}
    page.route("**/openapi.json", lambda route: route.fulfill(json=contract))
    page.route("**/predict", lambda route: route.fulfill(json=answer))
    page.reload()
    with page.expect_request(lambda each: '"words":4' in (each.post_data or "")) as asked:
        write(page, "We we")
    assert asked.value.post_data_json["letters"] is True
    expect_ghost(page, "nt home")
    page.keyboard.press("Alt+Digit1")
    expect(page.locator("#text")).to_have_value("We went")
    page.get_by_role("group", name="Next character").get_by_text("n90 %").click()
    expect(page.locator("#text")).to_have_value("We wentn")


def test_every_input_asks_and_stale_answers_are_dropped(page: Page) -> None:
    """Each key press asks at once, and the question about the text before it is given up."""

    def answer(route: Any) -> None:
        text = route.request.post_data_json["text"]
        if text != "a":  # that one is never answered
            route.fulfill(json=candidate(text, "!"))

    write(page, "")
    page.route("**/predict", answer)
    with page.expect_event("requestfailed", lambda each: each.post_data_json["text"] == "a"):
        page.keyboard.press("a")
        page.keyboard.press("b")
    expect(page.locator("#strip b").first).to_have_text("ab")


def test_nothing_is_asked_while_an_input_method_composes(page: Page) -> None:
    """Composed letters are not text: the question comes with the chosen character."""
    with page.expect_request("**/predict"):
        write(page, "")
    asked: list[str] = []
    page.on("request", lambda each: asked.append(each.post_data_json["text"]))
    keyboard = page.context.new_cdp_session(page)
    for letters in ("n", "ni"):
        place = {"selectionStart": len(letters), "selectionEnd": len(letters)}
        keyboard.send("Input.imeSetComposition", {"text": letters, **place})
        expect_ghost(page, "")
    expect(page.locator("#text")).to_have_value("ni")
    keyboard.send("Input.insertText", {"text": "你"})
    expect(page.locator("#text")).to_have_value("你")
    expect_ghost(page, "word0")
    assert set(asked) - {""} == {"你"}  # no letters, such as "ni"


def test_blanks_become_drop_downs(page: Page) -> None:
    """Each blank has its words with percentages; the sentence as chosen can be taken over."""
    write(page, "𝄞 I ____ a __.")
    blanks = page.get_by_role("combobox")
    expect(blanks).to_have_count(2)
    expect(page.locator("#strip")).to_be_hidden()
    expect(blanks.first.locator("option").first).to_have_text("word0 · 50 %")
    blanks.nth(1).select_option("word3")
    expect(page.locator("#picked li b")).to_have_text(["word0", "word3"])
    page.get_by_role("button", name="Use this text").click()
    expect(page.locator("#text")).to_have_value("𝄞 I word0 a word3.")
    expect(page.locator("#blanks")).to_be_hidden()
    expect_ghost(page, "word0")


def test_fields_are_sent(page: Page) -> None:
    """History, own words with weights, blocked words and choices are in the question."""
    page.get_by_label("History").fill("He came.\nHe saw.")
    page.get_by_label("Own words").fill("Okonkwo*2, 若琳、Lagos")
    page.get_by_label("Blocked words").fill("damn")
    page.get_by_label("Choices for blanks").fill("a, an\nb，c")
    with page.expect_request("**/cloze") as asked:
        write(page, "x __ y __")
    body = asked.value.post_data_json
    assert len(body.pop("user")) >= 16
    lexicon = [{"word": "Okonkwo", "weight": 2}, "若琳", "Lagos"]
    context = {"history": "He came.\nHe saw.", "lexicon": lexicon, "block": ["damn"]}
    question = {"text": "x __ y __", "choices": [["a", "an"], ["b", "c"]]}
    assert body == {"top_k": 5, "fillings": 3} | question | context


def test_copied_requests_run_and_run_nothing_else(
    visit: Callable[..., Page], tmp_path: Path
) -> None:
    """The copied code sends the text, whatever is in it."""
    shutil.copy(STATIC / "lacuna.js", tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    write(page, HOSTILE)
    programs = {"curl": "bash", "Python": sys.executable, "JavaScript": "node"}
    for language, program in programs.items():
        page.get_by_role("button", name=language).click()
        page.get_by_role("button", name="Copy").click()
        expect(page.locator("#copy")).to_have_text("Copied")
        (tmp_path / "code").write_text(page.evaluate("navigator.clipboard.readText()"), "utf-8")
        if shutil.which(program):
            run = subprocess.run([program, "code"], cwd=tmp_path, capture_output=True, check=True)
            assert b"candidates" in run.stdout
    assert not (tmp_path / "hit").exists()


def test_a_key_stays_in_the_page(browser: Any) -> None:
    """The field appears if a key is needed; the key is sent, but not stored and not shown."""
    with serving(FAKE, environment={"LACUNA_KEYS": KEY}) as server:
        page = browser.new_context(locale="en-GB").new_page()
        page.goto("http://{}:{}/".format(*server.address))
        expect(page.get_by_role("alert")).to_have_text("This service needs an API key.")
        page.get_by_label("API key").fill(KEY)
        expect(page.locator("#strip li:visible")).to_have_count(5)
        expect(page.get_by_role("alert")).to_have_text("")
        expect(page.locator("#code")).to_contain_text("$LACUNA_KEY")
        assert KEY not in page.locator("body").inner_text()
        assert page.context.storage_state() == {"cookies": [], "origins": []}
        page.context.close()


def test_markup_in_answers_and_fields_stays_text(page: Page) -> None:
    """Markup in text, history, own words and answers makes no element and runs nothing."""
    elements = page.locator("img, script, iframe").count()
    page.get_by_label("History").fill(HOSTILE)
    page.get_by_label("Own words").fill("<img src=x onerror='hit = 1'>")
    answer = candidate(HOSTILE, HOSTILE, origins={HOSTILE: 1})
    page.route("**/predict", lambda route: route.fulfill(json=answer))
    write(page, HOSTILE)
    expect(page.locator("#strip b").first).to_have_text(HOSTILE)
    expect_ghost(page, HOSTILE)
    write(page, f"{HOSTILE} ____")
    expect(page.locator("#sentence")).to_contain_text(HOSTILE)
    assert page.locator("img, script, iframe").count() == elements
    assert page.evaluate("window.hit") is None


def test_other_pages_can_neither_frame_nor_ask(browser: Any, home: str) -> None:
    """A page of another origin gets no frame, no answer, and no code into the playground."""
    page, evil = browser.new_context().new_page(), "http://evil.example/"
    page.route(evil, lambda route: route.fulfill(body="<body>", content_type="text/html"))
    page.goto(evil)
    frame = "Object.assign(document.createElement('iframe'), {src})"
    page.evaluate(f"src => document.body.append({frame})", home)
    expect(page.frame_locator("iframe").locator("#text")).to_have_count(0)
    ask = """([url, type]) => fetch(url, {method: "POST", headers: {"Content-Type": type},
        body: '{"text": "a"}'}).then((answer) => answer.text(), (error) => error.name)"""
    for media_type in ("application/json", "text/plain"):
        assert page.evaluate(ask, [f"{home}predict", media_type]) == "TypeError"
    page.goto(home)
    for planted in ({"content": "window.hit = 1"}, {"url": f"{evil}hit.js"}):
        with pytest.raises(sync_api.Error):
            page.add_script_tag(**planted)
    assert page.evaluate("window.hit") is None
    page.context.close()


def test_the_client_retries_and_reports_problems(page: Page) -> None:
    """The module waits as `Retry-After` says, sends the key, and throws problem documents."""
    problem = {"detail": "/text: is empty", "errors": [{"pointer": "/text"}]}
    busy: Any = {"status": 503, "headers": {"Retry-After": "0.01"}}
    answers = [busy, {"json": {"results": [1]}}, {"status": 422, "json": problem}]
    asked: list[Any] = []
    page.route("**/score", lambda route: (asked.append(route), route.fulfill(**answers.pop(0))))
    call = f"""import("./lacuna.js").then(({{ Lacuna, Problem }}) =>
        new Lacuna(location.href, {{ key: "{KEY}" }}).score("a", {{ details: true }}).catch(
        (error) => [error instanceof Problem, error.status, error.message, error.errors]))"""
    assert page.evaluate(call) == {"results": [1], "timing": {}}
    assert page.evaluate(call) == [True, 422, *problem.values()]
    for route in asked:
        assert route.request.headers["authorization"] == f"Bearer {KEY}"
        assert route.request.post_data_json == {"text": "a", "details": True}
    assert len(asked) == 3


@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
def test_layout_and_names(visit: Callable[..., Page], locale: str) -> None:
    """On desktop and phone, light and dark, all fits and every control has a name."""
    page = visit(locale=locale)
    for width, scheme in itertools.product((1100, 400), ("light", "dark")):
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", colour))) < 200) == (scheme == "dark")
    for role in ("textbox", "button", "link"):
        named = page.get_by_role(role, name=re.compile(r"\S"))
        assert named.count() == page.get_by_role(role).count() > 0
    labels = page.locator("label, h2, #examples button").all_inner_texts()
    assert {bool(re.search("[一-鿿]", each)) for each in labels} == {locale == "zh-CN"}
    page.get_by_role("button", name="English" if locale == "zh-CN" else "中文").click()
    assert page.evaluate("document.documentElement.lang")[:2] != locale[:2]
