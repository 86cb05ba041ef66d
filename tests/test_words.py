"""The words of the project: American spelling, and none of the phrases that the house gave up.

`docs/design.md` names the words with one meaning each. A quoted title or an attribute of a standard
may keep its spelling: it is an entry of `QUOTED`."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUFFIXES = {".py", ".pyi", ".md", ".html", ".css", ".toml", ".yml", ".yaml", ".txt"}

PHRASES = [
    "for want of",
    "whoever",
    "whomever",
    "whilst",
    "amongst",
    "lest",
    "so many",
    "so much for",
    "nor is",
    "had no say",
    "leaves the numbers",
    "a ruin",
    "in vain",
    "bears? (the|a|an|small|images|changes)",
    "to bear",
    "who fears",
    "(?<=[,;]\\s)for (it|they|he|its|there|that|this) (is|are|was|were|has|have|can|does|depends?)",
]
"""Phrases that a reader stops at, as regular expressions between word boundaries."""

BRITISH = [
    "(colour|behaviour|neighbour|favour|honour|flavour|labour|rumour|vapour|harbour)\\w*",
    "(centre|metre|fibre|theatre|litre|calibre)[sd]?",
    "(defence|offence|licence|pretence)s?",
    "(label|model|cancel|travel|level|signal|channel|tunnel|fuel|total|dial)l(ed|ing|er|ers)",
    "grey(er|ish|s|scale)?",
    "(learnt|spelt|burnt|dreamt|leapt)",
    "(afterwards|towards|backwards|forwards|upwards|downwards)",
    "(catalogue|dialogue|analogue|programme|artefact|judgement|ageing|fulfil|enrol|sceptic\\w*)",
    "analys(e|es|ed|ing)",
    "\\w*(normal|optim|recogn|minim|maxim|quant|initial|regular|general|summar|organ|serial|real"
    "|standard|vector|parametr|factor|discret|local|visual|central|random|penal|linear|character"
    "|categor|util|emphas|memor|synchron|priorit|symmetr|random|specl|special|stabil|binar)is"
    "(e|es|ed|er|ers|ing|ation|ations)",
]
"""British spellings, as regular expressions between word boundaries."""

QUOTED = [
    "aria-labelledby",  # an attribute of HTML
    "Towards robust model watermark",  # Gan et al., ICCV 2023
]
"""What keeps its spelling: names of standards and titles of papers."""


def texts():
    """Return what a person reads or writes in the project, by path; this file aside."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    files = [ROOT / name for name in listed if Path(name).suffix in SUFFIXES]
    return {
        file.relative_to(ROOT).as_posix(): file.read_text()
        for file in files
        if file.exists() and file != Path(__file__)
    }


def hits(patterns, text):
    """Return the places of a text that match, as `line: words`."""
    for quoted in QUOTED:
        text = text.replace(quoted, "")
    spaced = "|".join(patterns).replace(" ", r"\s+(?:# )?")
    matcher = re.compile(rf"(?<![\w-])({spaced})(?![\w-])", re.IGNORECASE)
    return [
        f"{text.count(chr(10), 0, match.start()) + 1}: {match.group()}"
        for match in matcher.finditer(text)
    ]


@pytest.mark.parametrize("patterns", [PHRASES, BRITISH], ids=["phrases", "British"])
def test_the_words_of_the_project(patterns):
    places = [f"{name}:{hit}" for name, text in texts().items() for hit in hits(patterns, text)]
    assert places == []


@pytest.mark.parametrize(
    "text",
    [
        "normalise",
        "Colours",
        "a modelled one",
        "gradients\n    towards it",
        "kept, for it is small",
        "the layer bears a mask",
        "# for want\n# of a better",
    ],
)
def test_a_word_that_is_kept_out_is_seen(text):
    assert hits([*PHRASES, *BRITISH], text)


def test_words_that_only_look_alike_pass():
    text = "otherwise raise noise; precise premises; bearing; forward; a modeled channel; promise"
    assert hits([*PHRASES, *BRITISH], text) == []
