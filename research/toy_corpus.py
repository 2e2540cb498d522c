"""A small corpus of everyday sentences, English and Chinese, written by a seeded grammar.

It is enough to see the whole road from text to answers work in two minutes (`make newcomer`). It is not enough to learn
a language, and no part of it went into the bundled checkpoint.

A sentence is a template with slots. The slots of one *row* belong together (a teacher works in a school, not in a
kitchen), so there is something to learn from both sides of a blank; `who` and `when` vary freely.
"""

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class Grammar:
    """Sentences of one language.

    Attributes:
        free: by slot, the fillings that fit every sentence.
        scenes: (templates, rows) pairs; a template may use the slots of its rows and the free ones. A filling of a
            row may be several, separated by slashes, that fit equally well.
    """

    free: dict[str, tuple[str, ...]]
    scenes: tuple[tuple[tuple[str, ...], tuple[Row, ...]], ...]


def sentences(grammar: Grammar, seed: int) -> Iterator[str]:
    """Endless seeded sentences; each scene is as likely as any other, and so is each of its rows."""
    random_source = random.Random(seed)
    while True:
        templates, rows = random_source.choice(grammar.scenes)
        row = random_source.choice(rows)
        slots = {slot: random_source.choice(filling.split("/")) for slot, filling in row.items()}
        slots.update(
            {slot: random_source.choice(fillings) for slot, fillings in grammar.free.items()}
        )
        sentence = random_source.choice(templates).format_map(slots)
        yield sentence[:1].upper() + sentence[1:]


def different_sentences(grammar: Grammar, count: int, seed: int) -> list[str]:
    """So many different sentences, in the order in which they first come.

    Raises:
        ValueError: the grammar seems to have fewer.
    """
    unique: dict[str, None] = {}
    for attempt, sentence in enumerate(sentences(grammar, seed)):
        if len(unique) == count:
            break
        if attempt == 20 * count:
            raise ValueError(
                f"only {len(unique)} different sentences came in {attempt}, {count} asked for; ask for fewer"
            )
        unique[sentence] = None
    return list(unique)


def write_corpus(directory: Path, lines: int, seed: int) -> list[Path]:
    """Write `en.txt` and `zh.txt`, each with that many different sentences, one a line.

    Raises:
        ValueError: the grammar has fewer different sentences than `lines`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, grammar in (("en", ENGLISH), ("zh", CHINESE)):
        path = directory / f"{name}.txt"
        text = "".join(f"{sentence}\n" for sentence in different_sentences(grammar, lines, seed))
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def main(arguments: list[str] | None = None) -> int:
    """`python -m research.toy_corpus DIRECTORY [--lines N] [--seed N]`."""
    parser = argparse.ArgumentParser(
        prog="python -m research.toy_corpus", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("directory", type=Path, help="where en.txt and zh.txt are written")
    parser.add_argument(
        "--lines",
        type=int,
        default=4000,
        help="different sentences a language (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=1,
        help="the same seed writes the same text (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        write_corpus(options.directory, options.lines, options.seed)
    except ValueError as error:
        parser.error(str(error))
    return 0


def _rows(slots: str, *rows: str) -> tuple[Row, ...]:
    """Rows of slots from comma-separated text: `_rows("job, place", "doctor, hospital")`."""
    names = [name.strip() for name in slots.split(",")]
    return tuple(
        dict(zip(names, (value.strip() for value in row.split(",")), strict=True)) for row in rows
    )


ENGLISH = Grammar(
    free={
        "who": (
            "my mother",
            "my father",
            "my sister",
            "my brother",
            "our neighbour",
            "a friend of mine",
            "his wife",
        ),
        "name": ("Anna", "Tom", "Lucy", "Peter", "Maria", "James", "Helen", "David"),
        "when": (
            "yesterday",
            "this morning",
            "last week",
            "on Monday",
            "on Sunday",
            "two days ago",
            "last night",
        ),
        "how": ("really", "always", "often", "usually", "never", "sometimes"),
    },
    scenes=(
        (
            (
                "The {job} works in the {place}.",
                "{who} is a {job} and works in the {place}.",
                "{name} went to the {place} {when} and talked to the {job}.",
                "{when} {who} met the {job} in the {place}.",
                "The {job} in the {place} helped {name} {when}.",
            ),
            _rows(
                "job, place",
                "doctor/nurse, hospital",
                "teacher/student, school/university",
                "cook/waiter, restaurant/hotel",
                "farmer/shepherd, village",
                "librarian, library",
                "driver/policeman, station",
                "pilot, airport",
                "actor/singer, theatre",
                "guide, museum",
            ),
        ),
        (
            (
                "{name} said: I would like a {measure} of {drink}, please.",
                "{who} {how} drinks a {measure} of {drink} in the {time}.",
                "{name} asked for a {measure} of {drink} {when}.",
                "Would you like another {measure} of {drink}, {name}?",
                "{name} {how} has a {measure} of {drink} with {who}.",
            ),
            _rows(
                "measure, drink, time",
                "cup, tea/coffee/cocoa, morning/afternoon",
                "glass, water/milk/orange juice, morning/evening",
                "bottle, beer/wine, evening",
                "bowl, soup/rice, evening",
            ),
        ),
        (
            (
                "I {how} go to {place} by {vehicle}, said {name}.",
                "{name} went to {place} by {vehicle} {when}.",
                "{who} {how} goes to {place} by {vehicle}.",
                "{name} says it takes {time} to get to {place} by {vehicle}.",
                "{when} {who} and {name} went to {place} by {vehicle}.",
            ),
            _rows(
                "place, vehicle, time",
                "work/the office, bus, half an hour/forty minutes",
                "school/the park, bike, ten minutes/a quarter of an hour",
                "London/Paris/Rome, train, two hours/half a day",
                "China/Japan/India, plane, nine hours/eleven hours",
                "the beach/the lake, car, an hour",
                "the island, boat, all day/all night",
            ),
        ),
        (
            (
                "{who} went to the {shop} to {verb} a {thing}.",
                "{name} wanted to {verb} a {thing}, but the {shop} was closed {when}.",
                "{name} asked if one can {verb} a {thing} in the {shop}.",
                "{when} {name} went to the {shop} with {who} to {verb} a {thing}.",
            ),
            _rows(
                "shop, verb, thing",
                "bookshop, buy, book/map",
                "library, borrow, novel/book/film",
                "bakery, buy, cake/loaf",
                "post office, send, letter/parcel",
                "market, buy, fish/melon/chicken",
                "garage, rent/repair, car/bike",
                "flower shop, order/buy, rose/tulip",
            ),
        ),
        (
            (
                "When it is {weather}, {who} {how} wears a {clothes}.",
                "It was {weather} {when}, so {name} wore a {clothes}.",
                "Take a {clothes} with you, {name}, it is {weather} today.",
                "{name} forgot the {clothes} {when} although it was {weather}.",
            ),
            _rows(
                "weather, clothes",
                "cold/snowing, coat/scarf",
                "raining, raincoat",
                "hot/warm, T-shirt",
                "windy/cool, jacket",
                "sunny, hat",
            ),
        ),
        (
            (
                "I {how} like {activity} with my {partner}.",
                "{name} likes {activity} and went to the {place} {when}.",
                "{who} goes to the {place} because it is good for {activity}.",
                "Do you like {activity}, {name}?",
                "{when} {name} was {activity} in the {place} with {who}.",
            ),
            _rows(
                "activity, partner, place",
                "swimming/diving, children, pool",
                "reading/studying, friends, library",
                "running/walking, dog, park/forest",
                "cooking/baking, family, kitchen",
                "dancing/singing, wife, club",
                "shopping, mother/daughter, market/town",
            ),
        ),
    ),
)

CHINESE = Grammar(
    free={
        "谁": (
            "我妈妈",
            "我爸爸",
            "我姐姐",
            "我弟弟",
            "他的朋友",
            "我们的邻居",
            "她的同事",
            "爷爷",
        ),
        "名": ("小明", "小红", "小李", "小王", "小张", "老刘", "小陈", "阿强"),
        "时": ("昨天", "今天早上", "上个星期", "星期一", "前天", "昨天晚上", "去年"),
        "常": ("常常", "每天", "有时候", "总是", "从来不"),
    },
    scenes=(
        (
            (
                "{谁}是{职业},在{地方}工作。",
                "{名}{时}去{地方}找{职业}。",
                "{地方}里的{职业}{时}帮助了{名}。",
                "{时}{谁}在{地方}遇见了一位{职业}。",
                "{名}认识的那位{职业}在{地方}工作。",
            ),
            _rows(
                "职业, 地方",
                "医生/护士/大夫, 医院",
                "老师/学生/校长, 学校/大学",
                "厨师/经理, 饭店/宾馆",
                "司机/警察, 车站/机场",
                "服务员, 咖啡馆/茶馆",
                "售货员/老板, 商店/超市",
                "演员/歌手, 剧院/电视台",
                "农民, 农村/山里",
            ),
        ),
        (
            (
                "{名}说他想喝一{量}{饮料}。",
                "{谁}{常}喝一{量}{饮料}。",
                "{名}{时}喝了一{量}{饮料}。",
                "请给{名}一{量}{饮料},谢谢。",
                "{时}{谁}和{名}一起喝了一{量}{饮料}。",
            ),
            _rows(
                "量, 饮料",
                "杯, 茶/咖啡/牛奶/果汁",
                "瓶, 啤酒/水/可乐",
                "碗, 汤/粥/豆浆",
            ),
        ),
        (
            (
                "{谁}{常}坐{车}去{地方}。",
                "{名}{时}坐{车}去了{地方}。",
                "{谁}打算坐{车}去{地方}旅游。",
                "{谁}说坐{车}去{地方}要{多久}。",
                "{时}{名}和{谁}坐{车}去{地方}玩。",
            ),
            _rows(
                "车, 地方, 多久",
                "火车, 北京/西安/成都, 五个小时/一个晚上",
                "飞机, 德国/美国/泰国, 十个小时/大半天",
                "公共汽车, 公园/动物园/博物馆, 二十分钟/一刻钟",
                "地铁, 公司/市中心/体育馆, 半个小时/四十分钟",
                "船, 海南/小岛, 一天/一天一夜",
                "出租车, 机场/火车站, 一个小时/十五分钟",
            ),
        ),
        (
            (
                "{谁}{时}去{店}{动词}了一{量}{东西}。",
                "{名}想去{店}{动词}一{量}{东西}。",
                "{名},我们去{店}{动词}一{量}{东西}吧。",
                "{时}{名}和{谁}去{店}{动词}{东西}。",
            ),
            _rows(
                "店, 动词, 量, 东西",
                "书店, 买, 本, 书/词典/杂志",
                "图书馆, 借, 本, 小说/书/画册",
                "面包店, 买, 块, 蛋糕/面包",
                "邮局, 寄, 封, 信",
                "菜市场, 买, 条/斤, 鱼/黄瓜",
                "花店, 买/订, 束, 花/玫瑰",
            ),
        ),
        (
            (
                "今天{天气},{名}应该{动作}。",
                "{时}{天气},{谁}没有{动作}。",
                "因为{天气},所以{名}{动作}。",
                "如果{天气},{谁}就{动作}。",
            ),
            _rows(
                "天气, 动作",
                "下雨/下大雨, 带雨伞/穿雨衣",
                "很冷/特别冷, 穿大衣/戴手套",
                "很热/特别热, 开空调/吃冰棍",
                "下雪, 戴帽子/穿棉鞋",
                "刮风/刮大风, 关窗户/关门",
                "天晴, 去爬山/去散步",
            ),
        ),
        (
            (
                "{谁}觉得{国家}的{菜}很好吃。",
                "{名}{时}请{谁}吃{国家}的{菜}。",
                "{名}说{国家}人{常}吃{菜}。",
                "{名}{常}给{谁}做{国家}的{菜}。",
            ),
            _rows(
                "国家, 菜",
                "中国, 饺子/包子/烤鸭",
                "日本, 寿司/拉面",
                "意大利, 面条/比萨",
                "韩国, 泡菜/烤肉",
                "墨西哥, 玉米饼/辣椒",
            ),
        ),
    ),
)

if __name__ == "__main__":
    raise SystemExit(main())
