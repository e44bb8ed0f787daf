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
    """Line, id and text of each ``<DOC>`` of a file: its ``<TEXT>``, or all else that is in it, without tags.

    Args:
        path: The file, plain or gzip; UTF-8, or Latin-1 where it is not.
        title: Whether ``<TITLE>`` or ``<HEADLINE>`` goes before the text. Without it, it is no part of the text.

    Raises:
        ValueError: With file and line, for a document without ``<DOCNO>``, and for one that does not begin or end.
    """
    for number, block in _blocks(path, "DOC"):
        name = _NAME.search(block)
        if name is None:
            raise malformed(path, number, "a document needs an id; got <DOC> without <DOCNO>")
        heading = _TITLE.search(block)
        # The title stands in one place: before the text, or nowhere.
        rest = f"{block[: heading.start()]} {block[heading.end() :]}" if heading else block
        parts = [found[2] for found in _TEXT.finditer(rest)] or [_NAME.sub("", rest)]
        content = _plain(" ".join(parts))
        yield number, name[1].strip(), with_title(_plain(heading[2]), content) if title and heading else content


def sgml_topics(path: PathLike) -> Iterator[tuple[int, str, str]]:
    """Line, number and title of each topic of a file: ``<top>`` with ``<num>``, or ``<topic number=...>``.

    Raises:
        ValueError: With file and line, for a topic without a number or a title, and for one that does not begin or
            end.
    """
    for tag, number_of, title_of in (("top", _TOPIC_NUMBER, _TOPIC_TITLE), ("topic", _XML_NUMBER, _XML_QUERY)):
        for number, block in _blocks(path, tag):
            name, title = number_of.search(block), title_of.search(block)
            if name is None or title is None or not title[1].strip():
                raise malformed(path, number, f"a topic needs a number and a title; got {block[:60]!r}")
            yield number, name[1], _plain(title[1])


def _blocks(path: PathLike, tag: str) -> Iterator[tuple[int, str]]:
    """The elements of one kind: line of the first tag, and all from it to the last. Several may share a line."""
    tags = re.compile(rf"<(/?){tag}(?=[\s>]|$)[^>]*>?", re.IGNORECASE)
    lines: list[str] = []  # of the element that has begun
    first = 0
    for number, raw in numbered_lines(path):
        line = _decoded(raw)
        start = 0
        for found in tags.finditer(line):
            if not found[1] and first:
                raise malformed(
                    path, first, f"<{tag}> without </{tag}> before the next one, in line {number}; is the file whole?"
                )
            if not found[1]:
                first, start = number, found.start()
            elif first:
                yield first, "\n".join([*lines, line[start : found.end()]])
                lines, first = [], 0
            else:
                raise malformed(path, number, f"</{tag}> without <{tag}>; is the file whole?")
        if first:
            lines.append(line[start:])
    if first:
        raise malformed(path, first, f"<{tag}> without </{tag}>; is the file whole?")


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:  # the older collections are in Latin-1
        return raw.decode("latin-1")


def _plain(text: str) -> str:
    return " ".join(html.unescape(_TAG.sub(" ", text)).split())
