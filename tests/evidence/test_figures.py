"""Figures: what is drawn is what was measured."""

import math
import re
from dataclasses import replace

import matplotlib
import pytest
from support.records import example
from support.refusals import refused

from isthmus.evidence import Finished, figures, labels
from isthmus.evidence.record import Report
from isthmus.evidence.summary import worst_classes
from isthmus.metrics import Path, Rate
from isthmus.metrics.values import Mean
from isthmus.types import BadInput


@pytest.fixture
def full():
    return example()


@pytest.fixture
def measured():
    values = {
        "accuracy": tuple(Rate(h, 50) for h in (45, 40, 44)),
        "loss": (Mean(0.3, 50, 0.1, unit="nats"),) * 3,
    }
    return Path(
        t=(0.0, 0.5, 1.0),
        distance=(0.0, 1.0, 0.5),
        values=values,
        length=2.0,
        recalibrated_on="3 samples",
    )


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def texts(figure):
    return {t.get_text() for axes in figure.axes for t in axes.texts} | {
        t.get_text() for legend in figure.legends for t in legend.get_texts()
    }


def test_shares_and_losses_are_drawn_where_they_were_measured(full):
    top, bottom = figures.along_path(Report.read(full)).axes
    for axes, name in ((top, "accuracy"), (top, "attack success"), (bottom, "bonafide loss")):
        line = lines(axes)[labels.label(name)]
        assert list(line.get_xdata()) == full["path"]["t"]
        assert list(line.get_ydata()) == [v["value"] for v in full["path"]["values"][name]]
    assert len(top.collections) == 3 and len(bottom.collections) == 2  # one band each
    low, high = (full["path"]["values"]["accuracy"][3][end] for end in ("low", "high"))
    corners = top.collections[0].get_paths()[0].vertices
    assert {low, high} <= {y for x, y in corners if x == full["path"]["t"][3]}


def test_chosen_point_and_ends_are_named(full):
    figure = figures.along_path(Report.read(full))
    assert {
        "chosen: t = 0.4",
        "as received",
        "fine-tuned copy",
        "t",
        "Attack success rate",
    } <= texts(figure)
    for axes in figure.axes:
        assert any(list(line.get_xdata()) == [0.4, 0.4] for line in axes.get_lines())


def test_a_measured_path_is_drawn_as_well(measured):
    figure = figures.along_path(measured, chosen=0.5, ends=("mine", "yours"))
    assert {"chosen: t = 0.5", "mine", "yours"} <= texts(figure)
    assert list(lines(figure.axes[0])["Clean accuracy"].get_ydata()) == [0.9, 0.8, 0.88]
    assert not [t for t in texts(figures.along_path(measured)) if "chosen" in t]


def test_a_small_dip_is_visible_and_a_low_curve_is_not_cut(full):
    del full["path"]["values"]["attack success"]
    top = figures.along_path(Report.read(full)).axes[0]
    assert 0.6 < top.get_ylim()[0] < 0.85
    full["path"]["values"]["accuracy"][5].update(value=0.2, low=0.19)
    assert figures.along_path(Report.read(full)).axes[0].get_ylim()[0] < 0.05


def test_a_high_barrier_makes_losses_logarithmic(full):
    assert figures.along_path(Report.read(full)).axes[1].get_yscale() == "linear"
    full["path"]["values"]["loss"][5].update(value=900.0, low=-1.0)
    figure = figures.along_path(Report.read(full))
    assert figure.axes[1].get_yscale() == "log"
    assert "mathdefault" not in figures.to_svg(
        figure, "x"
    )  # formulae are off: the numbers have to be plain


def test_what_was_not_finite_leaves_a_gap(full):
    full["path"]["values"]["loss"][5] = {"value": None}
    y = lines(figures.along_path(Report.read(full)).axes[1])["Clean loss"].get_ydata()
    assert math.isnan(y[5]) and math.isfinite(y[4])
    full["path"]["values"] = {
        "bonafide loss": [{"value": None}] * 11,
        "bonafide accuracy": [{"value": None}] * 11,
    }
    figures.to_svg(figures.along_path(Report.read(full)), "x")


def test_figures_do_not_touch_the_settings(full):
    before = dict(matplotlib.rcParams)
    figures.to_svg(figures.along_path(Report.read(full)), "x")
    assert dict(matplotlib.rcParams) == before


def test_classes(full):
    axes = figures.per_class(Report.read(full)).axes[0]
    names = list(full["after"]["per_class"])
    assert [t.get_text() for t in axes.get_yticklabels()] == names
    drawn = lines(axes)
    assert list(drawn["before"].get_xdata()) == [
        full["before"]["per_class"][n]["value"] for n in names
    ]
    assert list(drawn["after, 95 % interval"].get_xdata()) == [
        full["after"]["per_class"][n]["value"] for n in names
    ]


def test_worst_classes_first_where_there_are_too_many(full):
    full["after"]["per_class"] = {str(i): {"value": 1 - i / 1000} for i in range(1000)}
    full["before"]["per_class"] = {}
    assert worst_classes(Report.read(full), 3) == ["999", "998", "997"]
    assert len(figures.per_class(Report.read(full)).axes[0].get_yticklabels()) == 20


def test_training_loss_against_steps(full):
    (line,) = figures.training_loss(Report.read(full)).axes[0].get_lines()
    assert list(line.get_ydata()) == full["curve"]["losses"]
    assert list(line.get_xdata()) == [200.0 * (i + 0.5) for i in range(10)]


@pytest.mark.parametrize(
    ("draw", "spoil"),
    [
        (figures.per_class, lambda r: r["after"].pop("per_class")),
        (figures.training_loss, lambda r: r["curve"].update(losses=[])),
    ],
)
def test_nothing_to_draw_is_said(full, draw, spoil):
    spoil(full)
    with pytest.raises(BadInput):
        draw(Report.read(full))


def test_a_path_without_measurements_is_refused():
    with pytest.raises(BadInput, match="without measurements"):
        figures.along_path(Path((0.0, 1.0), (0.0, 1.0), {}, 1.0, "nothing"))


def test_each_unit_has_a_panel_and_a_plain_number_is_no_share(measured):
    """A sharpness of 0.568 was drawn as 56.8 %."""
    values = {**measured.values, "sharpness": (0.568, 0.1, 0.3)}
    figure = figures.along_path(replace(measured, values=values))
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "share of samples",
        "loss (nats)",
        "value",
    ]
    drawn = lines(figure.axes[2])["Sharpness"]
    assert list(drawn.get_ydata()) == [0.568, 0.1, 0.3]
    figure.canvas.draw()
    assert not [t for t in figure.axes[2].get_yticklabels() if "%" in t.get_text()]
    assert "Sharpness" in texts(figure)


def test_the_svg_stands_alone_in_any_page(full):
    full["provenance"]["other"]["kind"] = "<b>&$x^2$</b>"
    figure = figures.along_path(Report.read(full))
    svg = figures.to_svg(figure, "first")
    assert (
        svg.startswith("<svg")
        and svg.endswith("</svg>")
        and "http" not in svg
        and "<style" not in svg
    )
    assert "<b>" not in svg and "&lt;b&gt;&amp;$x^2$" in svg
    names = re.findall(r'\bid="([^"]+)"', svg)
    assert names and all(name.startswith("first-") for name in names)
    used = set(re.findall(r'href="#([^"]+)"', svg)) | set(re.findall(r"url\(#([^)]+)\)", svg))
    assert used and used <= set(names)
    assert f"var(--attack, {figures.COLORS['attack']})" in svg
    bare = re.sub(r"var\(--\w+, #\w+\)", "", svg)
    assert not [color for color in figures.COLORS.values() if color in bare]
    assert svg == figures.to_svg(figures.along_path(Report.read(full)), "first")


def leaping(ts):
    values = {"accuracy": tuple(Rate(60 + i, 100) for i in range(len(ts)))}
    return Path(ts, (0.0,) * len(ts), values, 1.0, "nothing")


def test_no_line_crosses_what_was_not_measured_and_an_end_alone_takes_little_width():
    ts = (0.0, 0.1, 0.12, 0.14, 0.16, 0.18, 0.2, 1.0)
    figure = figures.along_path(leaping(ts), chosen=0.14)
    figure.draw_without_rendering()
    drawn = [list(lines(axes)["Clean accuracy"].get_xdata()) for axes in figure.axes]
    assert drawn == [[0.0], list(ts[1:-1]), [1.0]]
    widths = [axes.get_position().width for axes in figure.axes]
    assert widths[1] > 0.7 > 0.15 > max(widths[0], widths[2])
    marked = [
        axes for axes in figure.axes if "chosen: t = 0.14" in {t.get_text() for t in axes.texts}
    ]
    assert marked == [figure.axes[1]]
    assert len({axes.get_ylim() for axes in figure.axes}) == 1


def test_the_end_of_a_straight_path_stands_beside_its_stretch():
    ts = (0.0, *(0.5 + 0.05 * i for i in range(11)))
    figure = figures.along_path(leaping(ts), chosen=1.0)
    assert [list(lines(axes)["Clean accuracy"].get_xdata()) for axes in figure.axes] == [
        [0.0],
        list(ts[1:]),
    ]


def test_scattered_points_share_one_axis_with_gaps():
    ts = (0.0, 0.2, 0.21, 0.22, 0.23, 0.24, 0.25, 0.26, 0.5, 0.51, 0.52, 1.0)
    (axes,) = figures.along_path(leaping(ts)).axes
    x, y = lines(axes)["Clean accuracy"].get_data()
    assert [t for t, value in zip(x, y, strict=True) if value != value] == [0.2, 0.5, 1.0]
    assert [t for t, value in zip(x, y, strict=True) if value == value] == list(ts)


def test_a_value_that_no_job_of_the_axis_has_cannot_be_drawn():
    jobs = [Finished({"density": 0.1}, {"accuracy": 0.9}), Finished({"bits": 2}, {"size": 3})]
    assert figures.swept(jobs, "density", "accuracy").axes
    refused(lambda: figures.swept(jobs, "density", "size"), "value 'size'")
