"""Markdown as a reader of it sees it."""

from markdown_it import MarkdownIt


def inline(text):
    """Return the kind and the content of every part of the lines of a text, tables among them."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    assert not any(token.type == "html_block" for token in tokens)
    return [(part.type, part.content) for token in tokens for part in token.children or ()]


def is_plain(text):
    """Return whether a text has neither tags nor links nor images."""
    return not {kind for kind, _ in inline(text)} & {"html_inline", "link_open", "image"}


def codes(text):
    """Return the content of the code spans."""
    return [content for kind, content in inline(text) if kind == "code_inline"]
