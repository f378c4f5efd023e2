"""Reading metrics.csv and drawing it."""

import sys

import numpy as np
import pytest

from iris_wm.visualization.metric_curves import draw_curves, read_metrics
from iris_wm.visualization.plot_style import COLORS, DANGER

HEADER = "env_steps,epoch,name,value\n"


def write(path, lines: str):
    path.write_text(HEADER + lines)
    return path


def count(image, color: str) -> int:
    color = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(np.asarray(image).astype(int) - color).sum(-1) < 40).sum())


def test_reads_the_points_of_each_metric_in_order(tmp_path):
    path = write(tmp_path / "metrics.csv", "100,1,tokenizer/loss,2.5\n100,1,x,1\n200,2,tokenizer/loss,nan\n")
    curve = read_metrics(path)["tokenizer/loss"]
    assert curve.env_steps.tolist() == [100, 200]
    assert curve.epochs.tolist() == [1, 2]
    assert curve.values[0] == 2.5
    assert np.isnan(curve.values[1])


def test_a_line_that_is_still_being_written_is_left_out(tmp_path):
    path = write(tmp_path / "metrics.csv", "100,1,a,2.5\n200,2,a,1")
    assert read_metrics(path)["a"].values.tolist() == [2.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the columns env_steps,epoch,name,value"),
        ("step,value\n1,2\n", "got 'step,value'"),
        (HEADER + "1,1,a\n", "line 2: expected"),
        (HEADER + "1,1,a,0.5\n1,1,a,big\n", "line 3: .*'1,1,a,big'"),
    ],
)
def test_bad_files_are_named(tmp_path, text, message):
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_metrics(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read .*gone\.csv: FileNotFoundError"):
        read_metrics(tmp_path / "gone.csv")


def test_draws_each_component_in_its_colour(tmp_path):
    lines = "".join(
        f"{100 * epoch},{epoch},{name},{1 / (epoch + 1)}\n"
        for epoch in range(30)
        for name in ("tokenizer/loss", "world/loss", "collection/return", "evaluation/return")
    )
    image = draw_curves(
        read_metrics(write(tmp_path / "metrics.csv", lines)), title="a run", random_return=0.5
    )
    assert image.width == 1500
    for color in (*COLORS[:4], DANGER):
        assert count(image, color) > 30


def test_the_random_baseline_comes_from_the_metrics_where_it_is_logged(tmp_path):
    returns = "0,0,collection/return,1\n100,1,collection/return,2\n"
    without = draw_curves(read_metrics(write(tmp_path / "a.csv", returns)))
    logged = draw_curves(
        read_metrics(write(tmp_path / "b.csv", returns + "100,1,evaluation/random_return,1.5\n"))
    )
    assert without.size == logged.size
    assert count(without, DANGER) == 0
    assert count(logged, DANGER) > 30


@pytest.mark.parametrize(
    "lines",
    [
        "0,0,a/b,1\n",
        "0,0,a/b,nan\n0,1,a/b,inf\n",
        "".join(f"{step},{step},a/b,3\n" for step in range(5)),
        "".join(f"0,{epoch},a/b,{epoch}\n" for epoch in range(5)),
        "".join(f"{min(epoch, 10)},{epoch},a/b,{10.0**-epoch}\n" for epoch in range(15)),
        "".join(f"5,1,a/b,{i}\n" for i in range(100)),
        "1,1,no_component,-4\n",
        "".join(f"{epoch},{epoch},a/m{i},1\n" for i in range(13) for epoch in range(2)),
    ],
    ids=[
        "one point",
        "nothing finite",
        "constant",
        "one env step",
        "training on",
        "one epoch",
        "no prefix",
        "many",
    ],
)
@pytest.mark.filterwarnings("error")
def test_odd_metrics_are_drawn(tmp_path, lines):
    assert draw_curves(read_metrics(write(tmp_path / "metrics.csv", lines))).height > 100


def test_no_curves_is_an_error():
    with pytest.raises(ValueError, match="curves: expected at least one metric"):
        draw_curves({})


def test_pyplot_stays_out():
    """Its global state would fight with the reader's own figures and, without a display, fail."""
    import subprocess

    code = "import sys, iris_wm.visualization.metric_curves; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
