"""CSV and TSV to lines of text."""

import csv
import io
import random

import pytest

from model.errors import CorpusError
from training.data import text_fields
from training.data.file_report import FileReport
from training.data.tables import read_csv

MESSAGES = ["今天下午去哪里吃饭？", "I will be there at noon, I think.", "好的", "那我们明天见吧。"]


def read(
    text: str, field: str | None = None, kind: str = "csv", step: int = 7
) -> tuple[list[str], FileReport]:
    """Return the lines of a table that comes in chunks of *step* characters, and the report."""
    report = FileReport("table.csv", kind)
    chunks = (text[start : start + step] for start in range(0, len(text), step))
    return list(read_csv(chunks, report, field)), report


def table(rows: list[list[str]], delimiter: str = ",", quoting: int = csv.QUOTE_MINIMAL) -> str:
    """Write rows as a spreadsheet does."""
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, quoting=quoting).writerows(rows)  # type: ignore[arg-type]
    return file.getvalue()


def chat(names: list[str]) -> list[list[str]]:
    """Return rows of time, sender and message, below a row of names if there are any."""
    rows = [
        [f"2024-05-0{number + 1} 12:0{number}", ("小明", "Anna Berg")[number % 2], message]
        for number, message in enumerate(MESSAGES)
    ]
    return [names, *rows] if names else rows


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("names", [[], ["时间", "发送人", "内容"], ["When", "Sender", "Message"]])
def test_the_messages_of_a_chat_are_read(delimiter: str, quoting: int, names: list[str]) -> None:
    """Whatever the delimiter, and with or without header, only messages are text."""
    lines, report = read(table(chat(names), delimiter, quoting))
    assert lines == MESSAGES
    assert report.fields == (names[2] if names else "3",)
    assert report.removed["other columns"] == 8


@pytest.mark.parametrize("line_end", ["\r", "\n", "\r\n"])
def test_line_ends_may_be_of_any_system(line_end: str) -> None:
    """CR, LF and CR LF end rows, and lines within a quoted cell."""
    text = (
        f'id,text{line_end}1,"First of all,{line_end}a second ""line""."{line_end}2,One more here.'
    )
    assert read(text)[0] == ["First of all,", 'a second "line".', "One more here."]


def test_each_text_column_gives_lines_of_its_own() -> None:
    """Title and body are both text; identifiers, links, numbers and labels are not."""
    rows = [["id", "url", "title", "label", "body", "stars"]]
    for number in range(30):
        title, body = f"A short title of {'x' * number}", f"The body says {'y' * number} at length."
        rows.append([f"a{number}", f"http://x.org/{number}", title, "very good", body, "4.5"])
    lines, report = read(table(rows))
    assert report.fields == ("title", "body")
    assert lines == [cell for row in rows[1:] for cell in (row[2], row[4])]


@pytest.mark.parametrize(
    "others",
    [
        ["Anna Berg", "Li Wei", "John F. Smith", "Maria Garcia Lopez"],
        [f"北京市朝阳区建国路{number}号" for number in (3, 88, 12, 107)],
        [f"{number} Main Street, Old Mill, Springfield" for number in (3, 88, 12, 107)],
        [f"Monday, {day} January 2024 at 3:00" for day in (1, 8, 15, 22)],
        ['{"a": "some of it"}', '{"b": "more of it here"}', '{"c": "a b c d"}', '{"d": "e f g h"}'],
        ["very good service"] * 4,
    ],
)  # fmt: skip
def test_cells_without_sentences_are_no_text(others: list[str]) -> None:
    """Names, addresses, dates, JSON and labels are left out, even if no name says so."""
    rows = [[other, f"{message} Yes."] for other, message in zip(others, MESSAGES, strict=True)]
    assert read(table(rows))[0] == [row[1] for row in rows]


def test_a_passage_may_repeat() -> None:
    """A long text that several questions share is text."""
    passages = [
        f"The river rises in the {hills} and flows through three towns to the sea."
        for hills in ("south", "north")
    ]
    rows = [["context", "question"]]
    rows += [[passages[n % 2], f"What is {'a' * n} there?"] for n in range(20)]
    assert read(table(rows))[1].fields == ("context", "question")


def test_a_single_column_may_have_commas_without_quotes() -> None:
    """Prose is not divided at its commas."""
    lines = ["Hello, how are you?", "I am fine, thanks, and you, Anna?", "Well, not bad."]
    assert read("\n".join(lines))[0] == lines
    assert read("\n".join(["text", *lines]))[0] == lines


def test_text_may_have_delimiters_without_quotes() -> None:
    """Cells beyond the header belong to the text; a warning counts the rows."""
    rows = ["time,user,message", "12:00,Anna,hello, how are you", "12:01,Bob,fine", "12:02,Bob"]
    lines, report = read("\n".join(rows))
    assert lines == ["hello, how are you", "fine"]
    rows = ["id,text,source", "1,hello, how are you?,web", "2,all is fine here.,web"]
    assert read("\n".join(rows))[0] == ["hello, how are you?", "all is fine here."]
    assert report.removed["records without text"] == 1
    assert report.warnings == ["1 rows have more cells than the 3 columns"]


def test_rows_may_be_of_different_length() -> None:
    """Missing cells at the end, and superfluous ones, are left out."""
    rows = ["id,note,when", '1,"A, b and c.",2020-02-02', '2,"It is so."', "3"]
    rows += ['4,"One more.",2020-02-02,x', '5,"And so on, too."', '6,"At last.",2020-02-05']
    expected = ["A, b and c.", "It is so.", "One more.", "And so on, too.", "At last."]
    assert read("\n".join(rows))[0] == expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ('"never closed here', '"never closed here'),
        ('"Hello" he said to me', "Hello he said to me"),
    ],
)
def test_a_stray_quote_spoils_one_row_only(cell: str, expected: str) -> None:
    """A quote that is not closed, or closed too early, does not swallow the rows after it."""
    rows = [
        "id,text",
        f"1,{cell}",
        *(f"{number},this is row {number}" for number in range(2, 2000)),
    ]
    lines, report = read("\n".join(rows), step=1000)
    assert lines == [expected, *(f"this is row {number}" for number in range(2, 2000))]
    assert report.removed["stray quotes"] == 1


def test_rows_with_stray_quotes_are_read_once() -> None:
    """Quotes inside of cells that are not doubled, in every row: the lines are read once."""
    rows = ["id,text", *(f'{number},"Hello" said guest {number}' for number in range(20_000))]
    lines, report = read("\n".join(rows), step=1 << 16)
    assert lines[-1] == "Hello said guest 19999"
    assert report.removed["stray quotes"] == len(lines) == 20_000


def test_quotes_may_be_escaped_by_backslashes() -> None:
    """The dialect of databases is recognised by its quotes."""
    text = 'id,text\n1,"He said \\"hi, you\\" to me"\n2,"all is fine, today"\n'
    assert read(text)[0] == ['He said "hi, you" to me', "all is fine, today"]


def test_lines_around_the_header_are_left_out() -> None:
    """A line that names the delimiter, a title, and a header in the middle are left out."""
    text = "sep=;\nid;text\n1;this is a text\nid;text\n2;and this is another\n"
    assert read(text)[0] == ["this is a text", "and this is another"]
    lines, report = read("Export of the chat\n\n" + table(chat(["Time", "Name", "Message"])))
    assert lines == MESSAGES
    assert report.removed["rows before the header"] == 1


def test_html_in_cells_is_removed() -> None:
    """A cell with tags is read as HTML."""
    text = "id,body\n1,<p>Hello <b>my</b> friend.</p><p>That&#39;s all.</p>\n2,no tags in here\n"
    assert read(text)[0] == ["Hello my friend.", "That's all.", "no tags in here"]


def test_cells_of_programs_are_no_text() -> None:
    """Placeholders of pictures and cards of a chat go, and escaped characters are read."""
    rows = [["text"], ["[图片]"], ["<Media omitted>"], ["[deleted]"], ["NULL"]]
    rows += [["<msg><appmsg>a card</appmsg></msg>"], ["Fish &amp; chips &lt;b&gt;now&lt;/b&gt;."]]
    rows += [["Yes, now."]]
    lines, report = read(table(rows))
    assert lines == ["Fish & chips now.", "Yes, now."]
    assert report.removed["placeholders"] == 4
    assert report.removed["records without text"] == 5


@pytest.mark.parametrize(("field", "expected"), [("NAME", "Anna"), ("2", "Anna"), ("3", "ok")])
def test_a_column_can_be_named(field: str, expected: str) -> None:
    """A name, in any case, or a number insists on a column that would not be chosen."""
    assert read("id,name,text\n1,Anna,ok\n", field)[0] == [expected]


def test_an_unknown_column_is_named() -> None:
    """The error lists columns that there are, and no cells."""
    with pytest.raises(CorpusError, match=r"table\.csv: no text in .*'x'; there are 'id', 'text'"):
        read("id,text\n1,secret\n", "x")


def test_short_sentences_in_two_languages_are_text() -> None:
    """A column of sentences is text, however short they are; the source of each is not."""
    pairs = [("Hi.", "嗨。"), ("I won!", "我赢了。"), ("Wait!", "等等！"), ("He came.", "他来了。")]
    rows = [[*pair, f"CC-BY (France) tatoeba.org #{n * 71}"] for n, pair in enumerate(pairs)]
    assert read(table(rows, "\t"), kind="tsv")[0] == [text for pair in pairs for text in pair]


def test_words_are_read_if_there_are_no_sentences() -> None:
    """Of a table without sentences, the column with most words is read, with a warning."""
    rows = [["Li Wei", "good film"], ["Anna Berg", "bad"], ["Li Wei", "so and so"]]
    lines, report = read(table([["name", "short"], *rows]))
    assert lines == ["good film", "bad", "so and so"]
    assert report.warnings == ["no field has sentences; 'short' was read, as it has most words"]


@pytest.mark.parametrize("text", ["", "\n\n", "id,count\n1,2\n3,4\n", "a,b\n1,2\n3,4\n"])
def test_tables_without_text_give_nothing(text: str) -> None:
    """Numbers only, or no rows, are a warning and no error."""
    lines, report = read(text)
    assert lines == []
    assert report.warnings == ["no column holds text"]


def test_long_rows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without line ends is not read into memory."""
    monkeypatch.setattr(text_fields, "MAX_RECORD_CHARACTERS", 1000)
    with pytest.raises(CorpusError, match=r"a line above 1000 characters.*\.txt"):
        read("x" * 5000)


def test_no_text_is_lost_or_made_up() -> None:
    """Random sentences with quotes, delimiters and line ends come back as they were."""
    source = random.Random(3)
    pieces = ["word", "and", '"', ",", ";", "词语", ". ", "'", "|", " and then "]
    texts = ["a b c d " + "".join(source.choices(pieces, k=20)).strip() for _ in range(300)]
    rows = [["id", "text"], *([str(number), text] for number, text in enumerate(texts))]
    for delimiter in ",;\t|":
        assert read(table(rows, delimiter), step=100)[0] == texts
