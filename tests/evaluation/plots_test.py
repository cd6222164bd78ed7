"""Tests of plots: the files written, and the drawings read back."""

import os
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib import image, text
from matplotlib.backends import backend_agg

from genre_tl.evaluation import plots

TAGGING = {
    "epoch": [1, 2, 3, 4],
    "loss": [0.40, 0.30, 0.20, 0.10],
    "val_loss": [0.45, 0.35, 0.30, 0.32],
    "val_macro_auc_roc": [0.50, 0.60, 0.80, 0.70],
    "val_micro_auc_roc": [0.55, 0.65, 0.75, 0.90],
    "val_macro_pr_auc": [0.05, 0.06, 0.08, 0.07],
    "val_micro_pr_auc": [0.10, 0.12, 0.15, 0.14],
    "learning_rate": [1e-3] * 4,
}
GENRE = {
    "loss": [2.0, 1.0, 0.5],
    "accuracy": [0.2, 0.6, 0.9],
    "val_loss": [2.1, 1.1, 1.2],
    "val_accuracy": [0.2, 0.55, 0.5],
}
MATRIX = np.array([[3, 1], [2, 2]])


def without(history, *prefixes):
    return {k: v for k, v in history.items() if not k.startswith(prefixes)}


def curves(ax):
    """The curve of each legend entry, and the legend's title."""
    lines = {line.get_label(): line for line in ax.get_lines()}
    entries = [entry.get_text() for entry in ax.get_legend().get_texts()]
    return {e: lines[e].get_ydata().tolist() for e in entries}


def legend_title(ax):
    return ax.get_legend().get_title().get_text()


def texts(fig):
    return {item.get_text() for item in fig.findobj(text.Text)}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("history, panels", [(TAGGING, 3), (GENRE, 2)])
def test_curves_are_a_png_as_wide_as_its_panels(tmp_path, history, panels):
    plots.learning_curves(history, tmp_path / "curves.png", title="Pre-training")
    pixels = image.imread(tmp_path / "curves.png")
    assert pixels.shape[:2] == (630, 660 * panels)
    assert pixels.min() < 0.3 and pixels.max() == 1
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("num_genres", [1, 2, 10, 60])
def test_a_confusion_matrix_of_any_size_is_a_png(tmp_path, num_genres):
    names = [f"genre {i}" for i in range(num_genres)]
    matrix = np.eye(num_genres, dtype=int)
    plots.confusion_matrix(matrix, names, tmp_path / "matrix.png", title="Test")
    height, width = image.imread(tmp_path / "matrix.png").shape[:2]
    assert 600 < height < width < 4000
    assert [path.name for path in tmp_path.iterdir()] == ["matrix.png"]


def test_curves_show_the_values_given(tmp_path, drawn):
    plots.learning_curves(TAGGING, tmp_path / "a.png", title="Pre-training, 188 tags")
    loss, auc_roc, pr_auc = drawn[0].axes
    assert curves(loss) == {
        "training: 0.200": TAGGING["loss"],
        "validation: 0.300": TAGGING["val_loss"],
    }
    assert curves(auc_roc) == {
        "macro (mean of tags): 0.800": TAGGING["val_macro_auc_roc"],
        "micro (tags pooled): 0.750": TAGGING["val_micro_auc_roc"],
    }
    assert curves(pr_auc) == {
        "macro (mean of tags): 0.080": TAGGING["val_macro_pr_auc"],
        "micro (tags pooled): 0.150": TAGGING["val_micro_pr_auc"],
    }
    assert drawn[0].get_suptitle() == "Pre-training, 188 tags"
    assert [ax.get_xlabel() for ax in drawn[0].axes] == ["epoch"] * 3
    assert [ax.get_title("left") for ax in drawn[0].axes] == [
        "Loss (nats)",
        "Validation AUC-ROC",
        "Validation PR-AUC",
    ]


def test_accuracy_is_drawn_in_percent(tmp_path, drawn):
    plots.learning_curves(GENRE, tmp_path / "a.png", title="")
    shown = curves(drawn[0].axes[1])
    assert shown["training: 60.0%"] == GENRE["accuracy"]
    assert shown["validation: 55.0%"] == GENRE["val_accuracy"]
    ticks = [label.get_text() for label in drawn[0].axes[1].get_yticklabels()]
    assert "60%" in ticks


@pytest.mark.parametrize(
    "history, title",
    [
        (TAGGING, "At the best epoch, 3:"),
        (GENRE, "At the best epoch, 2:"),
        ({**GENRE, "epoch": [0, 1, 2]}, "At the best epoch, 1:"),
        (without(GENRE, "val_accuracy"), "At the best epoch, 2:"),
        ({**GENRE, "val_accuracy": [np.nan] * 3}, "At the best epoch, 2:"),
        ({**GENRE, "val_accuracy": [np.nan, 0.1, 0.2]}, "At the best epoch, 3:"),
        (without(GENRE, "val_"), "At the last epoch, 3:"),
        ({"loss": [2.0]}, "At the last epoch, 1:"),
    ],
)
def test_the_best_epoch_is_marked_else_the_last(tmp_path, drawn, history, title):
    plots.learning_curves(history, tmp_path / "a.png", title="")
    assert {legend_title(ax) for ax in drawn[0].axes} == {title}
    number = float(title.split()[-1].rstrip(":"))
    marks = [line for line in drawn[0].axes[0].get_lines() if line.get_marker() == "o"]
    assert {float(x) for mark in marks for x in mark.get_xdata()} == {number}


def test_without_validation_only_the_training_is_drawn(tmp_path, drawn):
    plots.learning_curves(without(GENRE, "val_"), tmp_path / "a.png", title="")
    assert [len(curves(ax)) for ax in drawn[0].axes] == [1, 1]


@pytest.mark.parametrize(
    "history, message",
    [
        ({}, r"nothing to draw in its columns \[\]: .* one of loss, val_loss"),
        ({"epoch": [1], "lr": [1.0]}, r"nothing to draw in its columns .*'lr'"),
        ({"epoch": [], "loss": []}, "at least one epoch"),
        ({"loss": [np.nan, np.nan]}, "nothing to draw"),
        ({"epoch": [1, 2], "loss": [1.0]}, "lengths: {'epoch': 2, 'loss': 1}"),
    ],
)
def test_a_history_that_cannot_be_drawn_is_refused(tmp_path, history, message):
    with pytest.raises(ValueError, match=message):
        plots.learning_curves(history, tmp_path / "a.png", title="")
    assert not list(tmp_path.iterdir())


def test_cells_show_clips_and_colours_show_shares_of_a_row(tmp_path, drawn):
    matrix = np.array([[3, 1, 0], [2, 2, 0], [0, 0, 0]])
    names = ["blues", "jazz", "rock"]
    plots.confusion_matrix(matrix, names, tmp_path / "a.png", title="Held-out clips")
    ax = drawn[0].axes[0]
    cells = {item.get_position(): item.get_text() for item in ax.texts}
    assert cells == {(0, 0): "3", (1, 0): "1", (0, 1): "2", (1, 1): "2"}
    shares = ax.get_images()[0].get_array()
    np.testing.assert_allclose(shares, [[75, 25, 0], [50, 50, 0], [0, 0, 0]])
    rows = [label.get_text() for label in ax.get_yticklabels()]
    assert rows == ["blues (4)", "jazz (4)", "rock (0)"]
    assert [label.get_text() for label in ax.get_xticklabels()] == names
    assert ax.get_ylabel() == "true genre (clips)"
    assert ax.get_xlabel() == "predicted genre"
    assert "share of the true genre (%)" in texts(drawn[0])


def test_a_name_that_is_no_valid_text_is_drawn(tmp_path):
    name = os.fsdecode(b"\xff")
    plots.confusion_matrix(MATRIX, [name, "c"], tmp_path / "a.png", title=name)
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_dollars_in_names_and_titles_are_not_read_as_tex(tmp_path):
    for names in (["a$b$", "c"], [r"$\nonsense{$", "c"]):
        path = tmp_path / "a.png"
        plots.confusion_matrix(MATRIX, names, path, title=r"for $5 or $\frac$")
        assert image.imread(path).size


def test_a_long_title_is_wrapped_not_cut(tmp_path, drawn):
    title = "a title that says everything there is to say " * 3
    plots.learning_curves({"loss": [2.0, 1.0]}, tmp_path / "a.png", title=title)
    lines = drawn[0].get_suptitle().splitlines()
    assert len(lines) > 1
    (box,) = [
        item.get_window_extent()
        for item in drawn[0].findobj(text.Text)
        if item.get_text() == drawn[0].get_suptitle()
    ]
    assert 0 < box.x0 < box.x1 < drawn[0].bbox.width


def test_the_same_figures_give_the_same_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        plots.learning_curves(TAGGING, tmp_path / name, title="Twice")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_picture_replaces_the_one_before(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    plots.confusion_matrix(MATRIX, ["blues", "jazz"], str(path), title="")
    assert image.imread(path).size
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_failed_drawing_leaves_the_old_picture_and_nothing_beside(
    tmp_path, monkeypatch
):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fail(*args, **kwargs):
        raise RuntimeError("no ink")

    monkeypatch.setattr(backend_agg.FigureCanvasAgg, "print_png", fail)
    with pytest.raises(RuntimeError, match="no ink"):
        plots.learning_curves(GENRE, path, title="")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_failed_write_leaves_nothing_beside(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OSError, match=r"a\.png"):
        plots.learning_curves(GENRE, tmp_path / "a.png", title="")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert not list((tmp_path / "a.png").iterdir())


def test_a_missing_folder_is_an_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        plots.learning_curves(GENRE, tmp_path / "absent" / "a.png", title="")


def test_matplotlibs_settings_are_left_as_they_were(tmp_path):
    before = dict(matplotlib.rcParams)
    plots.learning_curves(GENRE, tmp_path / "a.png", title="")
    plots.confusion_matrix(MATRIX, ["blues", "jazz"], tmp_path / "b.png", title="")
    assert dict(matplotlib.rcParams) == before


def test_drawing_loads_neither_pyplot_nor_tensorflow(tmp_path):
    program = (
        "import sys; from genre_tl.evaluation import plots; "
        f"plots.learning_curves({{'loss': [1.0]}}, {str(tmp_path / 'a.png')!r}, "
        "title=''); "
        "sys.exit(bool({'matplotlib.pyplot', 'tensorflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_accuracy_curves_show_every_model_in_percent(tmp_path, drawn):
    curves_ = {"transfer": [0.5, 0.75], "random": [0.25, 0.5]}
    plots.accuracy_curves(curves_, tmp_path / "a.png", title="gtzan")
    (ax,) = drawn[-1].axes
    for line, values in zip(ax.lines, curves_.values(), strict=True):
        assert line.get_ydata().tolist() == values
        assert line.get_xdata().tolist() == [1, 2]
    labels = [entry.get_text() for entry in ax.get_legend().get_texts()]
    assert labels == ["transfer: 75.0% at the end", "random: 50.0% at the end"]
    assert len({line.get_linestyle() for line in ax.lines}) == 2


def taggram_axis(tmp_path, drawn, times_secs):
    scores = np.tile([0.2, 0.9, 0.0], (len(times_secs), 1))
    path = tmp_path / "taggram.png"
    plots.taggram(np.array(times_secs), scores, list("abc"), path, title="Song")
    assert image.imread(path).size
    return drawn[-1].axes[0]


def test_a_taggram_has_the_highest_labels_on_top(tmp_path, drawn):
    ax = taggram_axis(tmp_path, drawn, [0.0, 0.5, 1.0])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b", "a", "c"]
    cells = ax.collections[0].get_array()
    np.testing.assert_allclose(cells, [[0.9] * 3, [0.2] * 3, [0] * 3])
    assert ax.yaxis_inverted()


@pytest.mark.parametrize(
    "times_secs, expected",
    [
        ([0.0], ["0:00"]),
        ([0.0, 0.5], ["0:00"]),
        (np.arange(40.0), ["0:00", "0:05", "0:10"]),
        (np.arange(1200.0), ["0:00", "2:00", "4:00"]),
        (np.arange(0, 86400.0, 5), ["0:00", "60:00", "120:00"]),
    ],
)
def test_a_taggram_of_any_length_begins_at_0_00(tmp_path, drawn, times_secs, expected):
    ax = taggram_axis(tmp_path, drawn, times_secs)
    low, high = ax.get_xlim()
    ticks = zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)
    shown = [label.get_text() for secs, label in ticks if low <= secs <= high]
    assert shown[:3] == expected
    assert low == 0 and high > times_secs[-1]


def test_a_long_taggram_averages_neighbours(tmp_path, drawn):
    times_secs = np.arange(4000.0)
    scores = (np.arange(4000) % 2)[:, np.newaxis]
    plots.taggram(times_secs, scores, ["a"], tmp_path / "a.png", title="Long")
    cells = drawn[-1].axes[0].collections[0].get_array()
    assert cells.size == 1500
    assert 0.3 < cells.min() <= cells.mean() < 0.7


@pytest.mark.filterwarnings("error")
def test_characters_without_a_font_are_drawn_without_warnings(tmp_path, caplog):
    names = ["\u97f3\u697d", "\U0001f3b5 pop"]
    title = "\ud55c\uad6d \U0001f3b8"
    plots.confusion_matrix(MATRIX, names, tmp_path / "a.png", title=title)
    assert image.imread(tmp_path / "a.png").size
    assert not caplog.records


def test_characters_are_drawn_with_another_installed_font_that_has_them(
    tmp_path, drawn
):
    # Circled letters are in STIX, which comes with matplotlib, not in DejaVu Sans.
    plots.confusion_matrix(MATRIX, ["\u24b6", "c"], tmp_path / "a.png", title="")
    label = drawn[0].axes[0].get_xticklabels()[0]
    assert label.get_fontfamily()[0] == "DejaVu Sans"
    assert len(label.get_fontfamily()) > 1


def test_reliability_and_coverage_of_every_curve_are_drawn(tmp_path, drawn):
    bins = np.array([[0, np.nan, np.nan], [3, 0.5, 0.4], [9, 0.9, 1.0]])
    rates = np.array([0.5, 1.0]), np.array([1.0, 0.8])
    curves = {"as trained": (bins, rates), "calibrated": (bins[1:], rates)}
    plots.confidence(curves, tmp_path / "a.png", title="x")
    left, right = drawn[0].axes
    diagonal, *lines = left.get_lines()
    np.testing.assert_allclose(diagonal.get_xydata(), [[0, 0], [1, 1]])
    for line in lines:
        np.testing.assert_allclose(line.get_xydata(), [[0.5, 0.4], [0.9, 1.0]])
    small, large = left.collections[0].get_sizes()
    assert large > small
    assert [x.get_text() for x in right.get_legend().get_texts()] == list(curves)
    np.testing.assert_allclose(right.get_lines()[0].get_ydata(), [1.0, 0.8])
