"""The page in a real browser: it is all there, it fits, it can be read, and it asks for nothing.

Needs a browser (`support/browser.py` says which)."""

import html
import json
import re

import pytest
from support.browser import browse, browser
from support.documents import RECORDS as DOCUMENTS
from support.records import example, hostile, surrounded, variant

from isthmus.evidence.page import to_html

WIDTHS = (320, 390, 1280)

# What is looked at, in each frame: sizes in CSS pixels, with all details opened.
LOOK = """
const CELLS = "h1, h2, p, th, td, dd, li, figcaption, caption, svg, img";
const box = e => {
  const r = e.getBoundingClientRect();
  return [r.left, r.top, r.right, r.bottom];
};
const look = frame => {
  const page = frame.contentDocument, root = page.documentElement;
  for (const each of page.querySelectorAll("details")) each.open = true;
  const figures = [...page.querySelectorAll("figure svg")].filter(e => e.getClientRects().length);
  const cells = [...page.querySelectorAll(CELLS)];
  return {
    width: root.clientWidth, needed: root.scrollWidth, height: root.scrollHeight,
    title: page.title, verdict: page.querySelector("h1").innerText,
    headings: [...page.querySelectorAll("h2")].map(e => e.innerText),
    figures: figures.map(box),
    pictures: [...page.querySelectorAll("img")].map(box),
    loaded: [...page.querySelectorAll("img")].map(e => e.complete && e.naturalWidth > 0),
    decision: page.querySelector(".decision")?.innerText,
    decided: page.querySelector(".decided")?.getBoundingClientRect().top,
    labels: figures.map(f => [...f.querySelectorAll("text")].map(e => [e.textContent, ...box(e)])),
    sticking_out: cells.filter(e => !e.closest(".scroll"))
      .filter(e => e.getBoundingClientRect().right > root.clientWidth + 1)
      .map(e => e.tagName + " " + e.textContent.slice(0, 40)),
    requested: frame.contentWindow.performance.getEntriesByType("resource").map(e => e.name),
    ink: getComputedStyle(root).getPropertyValue("--ink").trim(),
  };
};
window.onload = () => {
  const seen = [...document.querySelectorAll("iframe")].map(look);
  document.body.innerHTML = "<pre></pre>";
  const harmed = window.harmed === undefined ? 0 : 1;
  document.querySelector("pre").textContent = JSON.stringify({seen, harmed});
};
"""

pytestmark = pytest.mark.skipif(
    browser() is None, reason="no browser: install chromium, or set CHROME to one"
)


def seen(page, folder, *flags):
    """Return what a browser sees on the page at each width, and whether a script on it ran."""
    (folder / "page.html").write_text(page)
    frames = "".join(
        f'<iframe src="page.html" style="width:{w}px;height:900px;border:0"></iframe>'
        for w in WIDTHS
    )
    (folder / "frame.html").write_text(f"<!doctype html><body>{frames}<script>{LOOK}</script>")
    done = browse(
        *flags,
        "--allow-file-access-from-files",  # so that the frame may look into the page
        "--window-size=1400,1000",
        "--dump-dom",
        (folder / "frame.html").as_uri(),
    )
    text = re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    assert text, f"the browser showed nothing: {done.stderr[-2000:]}"
    found = json.loads(html.unescape(text[1]))
    return dict(zip(WIDTHS, found["seen"], strict=True)), found["harmed"]


def overlapping(labels):
    """Pairs of texts of one figure that lie over each other."""
    pairs = [(a, b) for i, a in enumerate(labels) for b in labels[:i]]
    return [
        (a[0], b[0])
        for a, b in pairs
        if a[1] < b[3] - 1 and b[1] < a[3] - 1 and a[2] < b[4] - 1 and b[2] < a[4] - 1
    ]


RECORDS = {
    "full": lambda: example(),
    "landscape": lambda: surrounded(example()),
    "bare": lambda: variant(
        example(),
        trigger=False,
        evaluation=False,
        baselines=False,
        confident=False,
        count=2,
        names=["only"],
    ),
    "hostile": lambda: variant(hostile(example()), count=101),
    "long": lambda: variant(example(), names=[f"{'averylongword' * 9} {i}" for i in range(1000)]),
}


@pytest.mark.parametrize("kind", RECORDS)
def test_the_page_in_a_browser(kind, tmp_path):
    record = RECORDS[kind]()
    widths, harmed = seen(to_html(record), tmp_path)
    assert not harmed
    for width, found in widths.items():
        assert found["width"] == width
        assert not found["sticking_out"] and found["needed"] <= width
        assert not found["requested"]
        assert " ".join(found["verdict"].split()) == " ".join(record["verdict"].split())
        shown = [
            *["Images whose answers changed"] * bool(record.get("examples")),
            *["The oddest trigger that a search found"] * bool(record.get("found_trigger")),
        ]
        headings = ["Before and after", *shown, "Along the path", "The chosen point"]
        assert found["headings"][: len(headings)] == headings
        pictures = len(record.get("examples", ())) + ("found_trigger" in record)
        assert len(found["pictures"]) == pictures
        for left, top, right, bottom in found["pictures"]:
            assert 0 <= left < right <= width and right - left >= 40 and bottom - top >= 40
        assert found["decision"] in ("USE", "USE WITH CARE", "DO NOT USE")
        assert found["decided"] < 900 and all(found["loaded"])
        assert len(found["figures"]) == 1 + bool(record["curve"]["losses"]) + (
            "landscape" in record
        )
        for (left, top, right, bottom), labels in zip(
            found["figures"], found["labels"], strict=True
        ):
            assert right - left > 0.6 * min(width, 900) and bottom - top > 80
            assert len(labels) > 5 and not overlapping(labels)
            for text, *place in labels:
                assert place[0] >= 0 and place[2] <= width, text
                assert min(place[2] - place[0], place[3] - place[1]) > 4
                assert max(place[2] - place[0], place[3] - place[1]) >= 6
            heights = [
                place[3] - place[1] for text, *place in labels if text.strip("0.") and len(text) < 8
            ]
            assert min(heights) >= 9.5  # letters that a person can read, on the smallest screen too


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_the_page_of_another_document_fits_and_asks_for_nothing(kind, tmp_path):
    widths, harmed = seen(to_html(DOCUMENTS[kind]), tmp_path)
    assert not harmed
    for width, found in widths.items():
        assert found["width"] == width and found["needed"] <= width
        assert not found["sticking_out"] and not found["requested"]
        assert found["headings"][-2:] == ["How it was made", "What this does not prove"]


def test_the_page_on_a_dark_screen(tmp_path):
    page = to_html(example())
    light, _ = seen(page, tmp_path)
    dark, _ = seen(page, tmp_path, "--blink-settings=preferredColorScheme=0")
    assert light[1280]["ink"] == "#1c2430" and dark[1280]["ink"] == "#e6eaf0"


def test_a_request_would_be_noticed(tmp_path):
    """The other tests prove nothing unless a page that requests or runs something is caught."""
    page = (
        '<!doctype html><h1>x</h1><img src="http://127.0.0.1:9/x.png"><p style="width:2000px">x</p>'
    )
    widths, harmed = seen(page + "<script>parent.harmed = 1</script>", tmp_path)
    assert harmed and widths[390]["requested"] == ["http://127.0.0.1:9/x.png"]
    assert widths[390]["needed"] == 2008 and widths[390]["sticking_out"] == ["P x"]
