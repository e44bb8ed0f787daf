"""Texts and topics of TREC in its SGML, as its older collections have them."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from cmp_rerank.ir.lines import PathLike, malformed, numbered_lines
from cmp_rerank.ir.mappings import with_title

_TAG = re.compile(r"<[^>]+>")
_TITLE = re.compile(r"<(TITLE|HEADLINE|HL)>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
_TEXT = re.compile(r"<(TEXT|BODY)>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
_NAME = re.compile(r"<DOCNO>(.*?)</DOCNO>", re.DOTALL | re.IGNORECASE)
_TOPIC_NUMBER = re.compile(r"<num>\s*(?:Number:)?\s*(\S+?)\s*(?=<|\s|$)", re.IGNORECASE)
_TOPIC_TITLE = re.compile(r"<title>\s*(?:Topic:)?\s*([^<]+)", re.IGNORECASE)
_XML_NUMBER = re.compile(r"<topic[^>]*\b(?:number|id)=[\"']([^\"']+)[\"']", re.IGNORECASE)
_XML_QUERY = re.compile(r"<(?:query|title)>\s*([^<]+)", re.IGNORECASE)


def sgml_documents(path: PathLike, *, title: bool = True) -> Iterator[tuple[int, str, str]]:
    """Line, id and text of each ``<DOC>`` of a file: its ``<TEXT>``, or all that is in it, without tags.

    Args:
        path: The file, plain or gzip; UTF-8, or Latin-1 where it is not.
        title: Whether ``<TITLE>`` or ``<HEADLINE>`` goes before the text.

    Raises:
        ValueError: With file and line, for a document without ``<DOCNO>`` and one that does not end.
    """
    for number, block in _blocks(path, "DOC"):
        name = _NAME.search(block)
        if name is None:
            raise malformed(path, number, "a document needs an id; got <DOC> without <DOCNO>")
        heading = _TITLE.search(block)
        parts = [found[2] for found in _TEXT.finditer(block)] or [_NAME.sub("", block)]
        content = _plain(" ".join(parts))
        yield number, name[1].strip(), with_title(_plain(heading[2]), content) if title and heading else content


def sgml_topics(path: PathLike) -> Iterator[tuple[int, str, str]]:
    """Line, number and title of each topic of a file: ``<top>`` with ``<num>``, or ``<topic number=...>``.

    Raises:
        ValueError: With file and line, for a topic without a number or a title.
    """
    for tag, number_of, title_of in (("top", _TOPIC_NUMBER, _TOPIC_TITLE), ("topic", _XML_NUMBER, _XML_QUERY)):
        for number, block in _blocks(path, tag):
            name, title = number_of.search(block), title_of.search(block)
            if name is None or title is None or not title[1].strip():
                raise malformed(path, number, f"a topic needs a number and a title; got {block[:60]!r}")
            yield number, name[1], _plain(title[1])


def _blocks(path: PathLike, tag: str) -> Iterator[tuple[int, str]]:
    """The elements of one kind: line of the first tag, and all from it to the last."""
    begin = re.compile(rf"<{tag}\b(?!\w)", re.IGNORECASE)
    end = re.compile(rf"</{tag}>", re.IGNORECASE)
    lines: list[str] = []
    first = 0
    for number, raw in numbered_lines(path):
        line = _decoded(raw)
        if not lines and begin.search(line):
            first = number
        if first:
            lines.append(line)
        if lines and end.search(line):
            yield first, "\n".join(lines)
            lines, first = [], 0
    if lines:
        raise malformed(path, first, f"<{tag}> without </{tag}>; is the file whole?")


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:  # the older collections are in Latin-1
        return raw.decode("latin-1")


def _plain(text: str) -> str:
    return " ".join(html.unescape(_TAG.sub(" ", text)).split())
