"""Turning a docstring into a query and a document."""

from __future__ import annotations

import re

from cmp_rerank.text.terms import terms

_UNDERLINE = re.compile(r"\n[ \t]*([=\-~^*#+\"'`])\1{2,}[ \t]*(?=\n|\Z)")
_VERSION_NOTE = re.compile(r"^\s*\.\. (version\w+|deprecated)::.*$", re.MULTILINE)
_DIRECTIVE = re.compile(r"^\s*\.\. [\w:-]+::[^\n]*$", re.MULTILINE)
_DOCTEST_OPTION = re.compile(r"#\s*doctest:.*$|^\s*:(?:noindex|no-index|nowrap|label|toctree)\b.*$", re.MULTILINE)
# "x (int, *optional*): ..." or "x : ndarray": the docstring starts with a parameter, not with a sentence.
_PARAMETER = re.compile(r"\A[*\w]+\s*(?:\((?:[^()]|\([^()]*\))*\))?\s*:(?!:)")
_ROLE = re.compile(r":[\w:+.-]+:`~?!?\.?([^`<]+?)\s*(?:<[^`>]*>)?`")
_CODE = re.compile(r"\[?(`{1,2})~?([^`]+?)\1_{0,2}\]?")
_SIGNATURE = re.compile(r"\A\s*[\w.]+\s*\((?:[^()]|\([^()]*\))*\)\s*(?:->\s*[^\n]*)?(?:\n|\Z)")
# A sentence ends with a mark that white space and no lower-case letter follows; "e.g." and "i.e." do not end one.
_SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\betc)(?<!\bcf)[.!?](?=\s+[^a-z\s]|\s*$)")
# A name in code: CamelCase, snake_case, a number or anything dotted; two queries that differ in such names only are
# written from one template.
_IDENTIFIER = re.compile(r"\b(?:\w*[a-z]\w*[A-Z]\w*|\w*[A-Z]{2,}\w*|\w+_\w*|\w+(?:\.\w+)+|\w*\d\w*)\b")


def plain_text(text: str) -> str:
    """Text without the markup of reStructuredText and Markdown, white space collapsed within paragraphs.

    >>> plain_text("See :func:`~torch.abs` and ``x``.\\n\\nNotes\\n-----\\nIt is\\nslow.")
    'See torch.abs and x.\\n\\nNotes It is slow.'
    """
    for pattern in (_VERSION_NOTE, _DIRECTIVE, _UNDERLINE, _DOCTEST_OPTION):
        text = pattern.sub("", text)
    text = _CODE.sub(r"\2", _ROLE.sub(r"\1", text))
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    return "\n\n".join(part for part in paragraphs if part)


def known_item(docstring: str) -> tuple[str, str] | None:
    """The first sentence of a docstring, and the rest without it; None where there are not two such parts.

    A leading line with the signature, as compiled functions have it, belongs to neither.

    >>> known_item("dot(a, b)\\n\\nDot product of two arrays. That is,\\na sum.\\n\\nNotes\\n-----\\nIt is fast.")
    ('Dot product of two arrays.', 'That is, a sum.\\n\\nNotes It is fast.')
    """
    text = plain_text(_SIGNATURE.sub("", docstring, count=1))
    head, _, tail = text.partition("\n\n")
    end = _SENTENCE_END.search(head)
    query, rest = (head[: end.end()], head[end.end() :].strip()) if end else (head, "")
    document = "\n\n".join(part for part in (rest, tail) if part)
    if not query or not document or _PARAMETER.match(query):
        return None
    return query, document


def template(text: str) -> str:
    """``text`` with every name in code replaced by one placeholder: equal for texts from one template.

    >>> template("Construct a BertTokenizer from 2 files.") == template("Construct a T5Tokenizer from 30 files.")
    True
    """
    return " ".join(terms(_IDENTIFIER.sub(" 0 ", text)))
