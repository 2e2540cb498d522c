"""Plain text, chats, logs and subtitles to paragraphs and messages."""

import textwrap

import pytest

from training.data.file_report import FileReport
from training.data.input_files import Kind
from training.data.plain_text import read_plain


def read(text: str, kind: Kind = "txt") -> tuple[list[str], dict[str, int]]:
    """Return the lines that are not blank, and the counts of removed parts."""
    report = FileReport("", kind)
    lines = list(read_plain(iter(text.splitlines()), report, kind))
    return [line for line in lines if line.strip()], dict(report.removed)


CHATS = {
    "WhatsApp, 12 hours": (
        "12/31/23, 10:15\u202fPM - Messages and calls are end-to-end encrypted. No one can read.\n"
        "12/31/23, 10:15\u202fPM - Ann: Are you coming: yes or no?\nI hope so\n"
        "12/31/23, 10:16\u202fPM - Dr. Bob Lee Jr.: <Media omitted>\n"
        "12/31/23, 10:16\u202fPM - +86 138 0013 8000: at 10:15 then <This message was edited>\n",
        ["Are you coming: yes or no?", "I hope so", "at 10:15 then"],
    ),
    "WhatsApp in brackets, 24 hours": (
        "[31.12.23, 22:15:03] Party: \u200eMessages and calls are end-to-end encrypted.\n"
        "\u200e[31.12.23, 22:15:04] Ann: \u200eimage omitted\n"
        "[31.12.23, 22:15:09] Ann: Wann kommst du?\n[2023/12/31 下午10:16:00] 张三: 马上到[微笑]\n",
        ["Wann kommst du?", "马上到"],
    ),
    "WhatsApp in Chinese": (
        "2023/12/31 下午10:15 - 张三: 你到哪里了？\n2023/12/31 下午10:16 - 李四: 快到了\n"
        "2023/12/31 下午10:17 - 张三: <省略多媒体文件>\n",
        ["你到哪里了？", "快到了"],
    ),
    "QQ": (
        "消息记录（此消息记录为文本格式，不支持重新导入）\n================\n消息对象:张三\n\n"
        "2023-01-02 10:22:33 张三(12345)\n你今天来公司吗？\n\n"
        "2023-01-02 10:22:50 李四<li@qq.com>\n来的，下午三点到。\n[图片]\n李四撤回了一条消息\n",
        ["你今天来公司吗？", "来的，下午三点到。"],
    ),
    "WeChat": (
        "张三 2023/1/2 10:22:33\n你今天来公司吗？\n李四 2023/1/2 10:22:50\n来的。\n",
        ["你今天来公司吗？", "来的。"],
    ),
    "WeChat, time first": (
        "2023-01-02 10:22:33 张三\n你今天来公司吗？\n2023-01-02 10:22:50 李四\n来的。\n",
        ["你今天来公司吗？", "来的。"],
    ),
    "Feishu": ("张三 1月2日 10:22\n看了吗？\n李四 1月2日 10:25\n看了\n", ["看了吗？", "看了"]),
    "Telegram": (
        "Ann, [31.12.23 22:15]\nHappy new year!\n\n"
        "Bob, [31.12.23 22:16]\n[ Photo ]\nThanks: you too\n",
        ["Happy new year!", "Thanks: you too"],
    ),
    "Discord": (
        "ann — 12/31/2023 10:15 PM\nhey there\nbob — Today at 10:16 PM\nhow are you?\n",
        ["hey there", "how are you?"],
    ),
    "Slack": (
        "Ann Lee  10:15 AM\ndid you push it?\nBob  10:16 AM\nyes\nAnn Lee  10:17 AM\ngreat\n",
        ["did you push it?", "yes", "great"],
    ),
    "Teams": ("[10:15 AM] Ann Lee\n  hello?\n[10:16 AM] Bob\n  no\n", ["hello?", "no"]),
    "IRC": (
        "[10:15] <ann> hello all\n[10:15] * bob has joined #lacuna\n[10:15:33] <@bob> hi ann: hey\n"
        "10:16 <ann> bye\n10:17 -!- carl [~c@host] has quit [Ping timeout]\n",
        ["hello all", "hi ann: hey", "bye"],
    ),
    "weechat": (
        "2023-01-02 10:15:33\tann\thello there\n2023-01-02 10:15:34\t-->\tbob has joined #x\n",
        ["hello there"],
    ),
    "LINE": ("22:15\tAnn\tHello there\n22:16\tBob\t[写真]\n", ["Hello there"]),
    "Zoom": ("10:15:33 From Ann to Everyone: hello\n10:16:03\t From  Bob : hi\n", ["hello", "hi"]),
    "seconds alone": ("10:22:33 张三: 你好\n10:22:40 李四：你也好\n", ["你好", "你也好"]),
    "QQ, time alone": (
        "张三(12345) 10:22:33\n你好\n李四(54321) 10:22:40\n你也好\n张三(12345) 10:23:00\n走吧\n",
        ["你好", "你也好", "走吧"],
    ),
    "XChat": ("Jan 02 10:22:33 <ann>\thello\nJan 02 10:22:40 <bob>\thi\n", ["hello", "hi"]),
    "WhatsApp without a year": (
        "02/01, 22:15 - Ann: hi\nJan 2, 10:22 AM - Bob: hello\n", ["hi", "hello"]
    ),
    "days": (
        "1月2日 10:22 张三：看了吗\n1月2日 10:23 李四：看了\n"
        "1月2日 10:24 张三：好\n1月2日 10:25 李四：嗯\n",
        ["看了吗", "看了", "好", "嗯"],
    ),
    "time after the name": (
        "张三（2023-01-02 10:22:33）：你好\n李四（2023-01-02 10:22:40）：你也好\nAnn [10:15]: hi\n",
        ["你好", "你也好", "hi"],
    ),
    "names in brackets": (
        "【张三】2023-01-02 10:22:33\n你好\n【李四】2023-01-02 10:22:40\n嗯\n", ["你好", "嗯"]
    ),
    "times alone": (
        "10:15 Ann: hi\n10:16 Bob: hello you\n10:17 Ann: what time is it: now?\n10:18 Bob: late\n",
        ["hi", "hello you", "what time is it: now?", "late"],
    ),
    "lyrics": ("[00:12.34]Hello from here\n[00:15.10]再见\n", ["Hello from here", "再见"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CHATS)
def test_chats_lose_their_headers(name: str) -> None:
    """Times, senders, events and placeholders go and are counted; messages stay word for word."""
    text, messages = CHATS[name]
    lines, removed = read(text)
    assert lines == messages
    assert removed["chat headers"] > 0
    assert removed.keys() <= {"chat headers", "chat notices", "separator lines"}


PROSE = """At 10:15 he left.
12
3. Buy milk
10:15 he left the house.
2023年1月2日，他出生了。
2023-01-02 was a Monday.
May 12 at 10:15 works for me.
March 10th at 5:30 pm, correct?
[1] Smith, J. (2020). A study.
[图片] shows a cat
张三：你好
HAMLET: To be, or not to be
1999: a year
(1) first; (2) second
- a list item
* another item
# heading
The meeting is at 10:15
The deadline is Jan 2, 2023 10:15 PM
He said: "10:15"
The results are in. It was 11:34 PM, 7/3/2023.
It was 11:34 PM, 7/3/2023.
The results are in. See 7/3/2023 11:34 PM
On 12/31/23, 10:15 PM - we met.
Monday 10:15: team meeting
12/31/23 was the last day: we drank.
3:16 For God so loved the world: he gave
第12章 10:15
上午10:15，会议开始了。
2023年1月2日上午10:15，会议开始。
ERROR: this is what the screen said.
INFO desk
I/O error(5): see below
——他说
……
【新华社】北京消息
(笑)好的
[laughs] Right.
<3 you
a = b
-1
"""


def test_prose_survives() -> None:
    """Lines that only look a little like headers, prefixes or separators stay as they are."""
    assert read(PROSE) == (PROSE.splitlines(), {})


def test_prose_after_a_chat_survives() -> None:
    """Brackets and dates in a text are not taken for those of a chat far above."""
    chat = CHATS["WhatsApp, 12 hours"][0]
    story = ["他说[原文如此]不知道。"] * 100
    assert read(chat + "\n".join(story))[0][-50:] == story[:50]


def test_separator_lines_go() -> None:
    """Lines of symbols are left out; a heading between symbols stays."""
    text = "=====\n第一章\n-----------\n* * *\n== Part Two ==\n————————\nend\n#####"
    assert read(text) == (["第一章", "== Part Two ==", "end"], {"separator lines": 5})


def test_long_lines_of_symbols_take_no_time() -> None:
    """Thousands of symbols that are nearly a frame are read at once, not by trial and error."""
    line = "=====10:15=10:15==" * 160 + "x"
    assert read(line)[0] == [line]


LOG = {
    "2023-01-02 10:22:33,123 - app.main - INFO - It is ready: come in": "It is ready: come in",
    "2023-01-02 10:22:33.123  INFO 1234 --- [  main] c.e.demo.App    : Started it": "Started it",
    "2023-01-02T10:22:33.123Z ERROR [worker-1] com.foo.Bar (Bar.java:12) No file": "No file",
    "[2023-01-02 10:22:33] [WARN] [net] Connection was lost": "Connection was lost",
    "[10:22:33] [Server thread/INFO]: Steve joined the game": "Steve joined the game",
    "Jan  2 10:22:33 host sshd[1234]: Accepted a key for root": "Accepted a key for root",
    "<34>1 2023-10-11T22:14:15.003Z host su - ID47 - su root failed": "su root failed",
    "2023/01/02 10:22:33 [error] 1234#0: *1 open() failed (2: none)": "open() failed (2: none)",
    "INFO 2023-01-02 10:22:33,123 views 1234 5678 Something happened": "Something happened",
    "[INFO ] 2023-01-02 10:22:33 [main] com.foo.Bar - Padded": "Padded",
    "[Mon Jan 02 10:22:33.123456 2023] [core:error] [pid 12:tid 34] Not found": "Not found",
    "20230102 10:22:33 ERROR job: Nothing came": "Nothing came",
    "2023-01-02 10:22:33.123 | INFO     | app:main:12 - With pipes": "With pipes",
    "Jan 02 10:22:33.123 WARN net: No year": "No year",
    "INFO:root:this is a message": "this is a message",
    "WARNING - disk is nearly full": "disk is nearly full",
    "2023-01-02 10:22:33 INFO 用户登录成功": "用户登录成功",
    "2023-01-02 10:22:33 用户登录成功": "用户登录成功",
    "and a line that goes on": "and a line that goes on",
    '127.0.0.1 - - [02/Jan/2023:10:22:33 +0000] "GET / HTTP/1.1" 200 612 "-" "Mozilla"': "",
    "Traceback (most recent call last):": "",
    '  File "x.py", line 3, in f': "",
    "    at com.foo.Bar(Bar.java:12)": "",
}


@pytest.mark.parametrize("kind", ["log", "txt"])
def test_logs_lose_their_prefixes(kind: Kind) -> None:
    """Times, levels, modules and numbers go; a text that is mostly a log is read like one."""
    lines, removed = read("\n".join(LOG), kind)
    assert lines == [message for message in LOG.values() if message]
    assert removed == {"log prefixes": 18, "access log lines": 1, "stack traces": 3}


def test_a_log_of_a_chat_is_a_chat() -> None:
    """A .log file with senders in angle brackets is read as a chat."""
    text = "".join(f"2023-01-02 10:15:3{n} <ann> hello: {n}\n" for n in range(5))
    assert read(text, "log")[0] == [f"hello: {n}" for n in range(5)]


SUBTITLES = """1
00:00:01,000 --> 00:00:03,500
<i>It was a dark</i>
and stormy night.

2
00:00:04,000 --> 00:00:06,000 X1:100
- Who is there?
- Nobody &amp; nothing.

3
00:00:07,000 --> 00:00:09,000
你好，很高兴
认识你。
Nice to meet you.

4
00:00:10,000 --> 00:00:11,000
[door creaks]

5
00:00:12,000 --> 00:00:13,000
♪ Happy birthday ♪
6
00:00:14,000 --> 00:00:15,000
{\\an8}I am 42
years old.
"""
SPOKEN = [
    "It was a dark and stormy night.",
    "Who is there?",
    "Nobody & nothing.",
    "你好，很高兴认识你。",
    "Nice to meet you.",
    "Happy birthday",
    "I am 42 years old.",
]


@pytest.mark.parametrize("kind", ["srt", "txt"])
def test_subtitles_become_what_is_said(kind: Kind) -> None:
    """The lines of a cue are joined, but for two speakers or languages; the rest is counted."""
    assert read(SUBTITLES, kind) == (
        SPOKEN,
        {"subtitle times": 6, "sound descriptions": 1},
    )


def test_web_subtitles_lose_headers_names_and_repeats() -> None:
    """Headers, notes, styles, names of cues and karaoke times go; rolling captions come once."""
    text = """WEBVTT - title
Kind: captions

STYLE
::cue { color: red }

NOTE this is
a comment

intro
00:01.000 --> 00:02.000 align:start position:0%
<v Roger>hello and welcome</v>

00:00:02.000 --> 00:00:03.000
hello and welcome
to<00:00:02.500><c> the</c><00:00:02.700><c> show</c>

00:00:03.000 --> 00:00:03.010
to the show

00:00:03.010 --> 00:00:05.000
to the show
it is late
"""
    lines, removed = read(text, "vtt")
    assert lines == ["hello and welcome", "to the show", "it is late"]
    assert removed == {"subtitle times": 4}


PARAGRAPHS = [
    "It was the best of rooms and the worst of rooms; nobody could say, when the lamps were lit and"
    " the rain came down upon the roof, whether the house had ever been meant for people at all.",
    "“You may stay,” said the old man, and he did not look up from the well-worn table while he"
    " said it, because he had been asked the same question every evening for thirty-two years.",
    "Then the door closed.",
    "The others went on along the road, which was white with dust, and came at noon to a village"
    " whose name none of them could read, though every house had it written above the door.",
]


@pytest.mark.parametrize("width", [60, 72])
@pytest.mark.parametrize(("indent", "gap"), [("", [""]), ("    ", [])])
def test_wrapped_paragraphs_are_joined(width: int, indent: str, gap: list[str]) -> None:
    """Lines broken at a width are joined, if blank lines or indents part the paragraphs."""
    lines = ["CHAPTER ONE", "", ""]
    for paragraph in PARAGRAPHS * 5:
        lines += [*textwrap.wrap(paragraph, width, initial_indent=indent), *gap]
    verse = ["  The rain it raineth", "  upon the just"]
    assert read("\n".join(lines + verse))[0] == [
        "CHAPTER ONE",
        *PARAGRAPHS * 5,
        *map(str.strip, verse),
    ]


def test_wrapped_chinese_is_joined_without_spaces() -> None:
    """Chinese lines of one width are joined to paragraphs, which begin with two wide spaces."""
    paragraphs = [
        "那天夜里下了一场大雨，早上起来的时候，院子里的花都开了，连墙角的那棵老树也发了新芽，大家都说这是好兆头。",
        "他没有说话，只是慢慢地走到窗前，看着外面的街道，心里想着很多年以前的事情，不知道那些人现在都在哪里。",
    ] * 6
    lines: list[str] = []
    for paragraph in paragraphs:
        text = "\u3000\u3000" + paragraph
        lines += [text[start : start + 24] for start in range(0, len(text), 24)]
    assert read("\n".join(lines))[0] == paragraphs


def test_whole_lines_are_not_joined() -> None:
    """Sentences of about the same length, one a line, stay apart."""
    sentences = [
        f"The {colour} house at the end of the road was sold for {price} pounds last year."
        for colour in ("red", "blue", "old", "white")
        for price in range(100, 110)
    ]
    assert read("\n".join(sentences))[0] == sentences
    poem = ["床前明月光，疑是地上霜。", "举头望明月，低头思故乡。"] * 20
    assert read("\n".join(poem))[0] == poem
