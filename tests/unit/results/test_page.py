"""An HTML page shows any text literally, runs no script and loads nothing."""

from __future__ import annotations

from html.parser import HTMLParser
from itertools import pairwise

from utils.core.secrets import learn_value
from utils.results.page import Facts, Page, PartOfPage, Sample, Samples, Sentences, Table, TableCell, render_page

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;{{ 7 * 7 }}"


class Reader(HTMLParser):
    """Collect tags, attributes and texts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data)


def _read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


def _page(text: str, language: str = "en") -> str:
    blocks = (
        Facts(((text, text, text),)),
        Sentences((text,), "bad"),
        Table(text, (text, "value"), ((text, text), (TableCell(text), TableCell(text, link=f"{text}.html")))),
        Table("matrix", ("", "a"), (("a", TableCell("3", 1.0, is_marked=True)),)),
        Table("folded", ("key",), ((text,),), is_folded=True),
        Samples(text, (Sample(text, (("asked", text),), "good", "right"),)),
    )
    parts = [PartOfPage("", blocks[:2]), PartOfPage("one", blocks), PartOfPage("none", ()), PartOfPage("two", blocks)]
    return render_page(Page(text, (text, "bad"), text, parts, language))


def test_hostile_texts_are_escaped():
    read = _read(_page(HOSTILE))
    assert not {"script", "img", "iframe", "object"} & set(read.tags)
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    assert read.texts.count(HOSTILE) >= 12
    assert "content=\"default-src 'none'" in _page(HOSTILE)


def test_nothing_is_loaded_from_elsewhere():
    read = _read(_page("plain"))
    addresses = [value or "" for name, value in read.attributes if name in ("src", "href", "action", "data")]
    assert not [each for each in addresses if not each.startswith(("#", "data:", "plain.html"))]
    assert "url(" not in _page("plain")


def test_control_codes_are_visible_and_secrets_hidden():
    learn_value("token", "hf_averysecretvalue")
    text = _page("\x1b[2J\u202egnp.exe hf_averysecretvalue \x00")
    assert "\\u001b[2J\\u202egnp.exe ***" in text
    assert not [char for char in text if ord(char) < 32 and char not in "\n\t"]


def test_headings_skip_no_level_and_tables_have_captions():
    read = _read(_page("x", "zh"))
    levels = [int(tag[1]) for tag in read.tags if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert read.tags.count("caption") == read.tags.count("table") == 6
    assert ("lang", "zh-CN") in read.attributes
    assert {value for name, value in read.attributes if name == "scope"} == {"col", "row"}
    links = {value.removeprefix("#") for name, value in read.attributes if name == "href" and value.startswith("#")}
    assert links == {value for name, value in read.attributes if name == "id"} == {"part-1", "part-2"}
