"""The worked examples as texts, against the figures of the course, and the command that prints."""

import functools
import itertools
import json
import math
import re

import numpy as np
import pytest
from typer.testing import CliRunner

import mlpkit
from mlpkit import cli
from mlpkit.activations import ACTIVATIONS
from mlpkit.lessons import LESSONS, lesson
from mlpkit.losses import LOSSES


@functools.cache
def text(name):
    return LESSONS[name][1]()


def results(name):
    """What stands behind the last equals sign of each equation."""
    lines = text(name).splitlines()
    return [
        float(line.rpartition(" = ")[2]) for line in lines if re.match("  .* = [-0-9.e]+$", line)
    ]


def rows(name, column):
    """The rows of the table with such a column, by their first cell; its numbers as such."""
    lines = [re.split(r" {2,}", line.strip()) for line in text(name).splitlines()]
    first = next(i for i, cells in enumerate(lines) if column in cells)
    body = itertools.takewhile(any, lines[first + 1 :])
    return {key: [number(cell) for cell in cells] for key, *cells in body}


def number(cell):
    """A cell as a number, where it is one."""
    return float(cell.replace(",", "")) if re.fullmatch(r"-?[0-9][-0-9,.e]*", cell) else cell


def assert_in_a_row(found, figures):
    """The figures stand one after the other, each to the last digit given."""
    words = figures.split()
    wanted = np.array([float(word) for word in words])
    half = np.array([0.5 * 10.0 ** -len(word.partition(".")[2]) for word in words]) + 1e-12
    runs = np.lib.stride_tricks.sliding_window_view(np.array(found), len(wanted))
    assert np.any(np.all(np.abs(runs - wanted) <= half, axis=1)), f"{figures} not in {found}"


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("E1", "0.8 0.6 1.1 1.4"),
        ("E1", "0.68997448 0.64565631 0.75026011 0.80218389"),
        ("E1", "5.60706218 0.99634159"),
        ("E2", "0.85 0.48 0.191"),
        ("E2", "0.3272405 -0.809"),
        ("E2", "0.121326 0.132135 0.226989 0.0982025 0.1743825 0.169416"),  # w1 w3 w2 w4 w5 w6
        ("E2", "0.2557457808 0.2769571714"),
        ("E3", "0.41 0.47 0.60108788 0.61538376"),
        ("E3", "1.01977419 1.26306852 0.73492861 0.77955388"),
        ("E3", "0.23456360 0.01452594 0.24908954"),
        ("E3", "0.08020312 0.08211062 -0.01760653 -0.01802527"),
        ("E3", "0.00110806 0.00554029 0.00134024 0.00670120"),  # of w1 w3 w2 w4
        ("E3", "0.09933517 0.19919586 0.29667583 0.39597928"),
        ("E3", "0.45187813 0.71056392 0.55073363 0.81081516"),  # w5 w7 w6 w8
    ],
)
def test_figures_of_the_course(name, figures):
    assert_in_a_row(results(name), figures)


def test_e1_says_the_class_and_the_right_derivative():
    assert "the class is 1" in text("E1")
    assert "dE/dz = p - t" in text("E1")


def test_e3_holds_the_biases():
    assert "0.bias is held" in text("E3")
    assert "1.bias is held" in text("E3")


def test_e4_formula_and_library_agree():
    table = rows("E4", "dJ/dt1")
    assert len(table) >= 6
    for x, (t, t1, t2, *slopes) in table.items():
        y = 1 / (1 + math.exp(-(t1 * float(x) + t2)))
        slope = (y - t) * y * (1 - y)
        wanted = [slope * float(x)] * 2 + [slope] * 2
        assert slopes == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(("chain", "weights"), [("1-1-1", 2), ("2-2-2", 8)])
def test_e5_paths_add_up_to_the_gradient(chain, weights):
    block = text("E5").partition(f"The {chain} network")[2].partition("\n\nThe")[0]
    table = [line.split() for line in block.splitlines() if ".weight[" in line]
    assert len(table) == weights
    for _, *cells in table:
        *by_path, total, library, difference = map(float, cells)
        assert sum(by_path) == pytest.approx(total, rel=1e-6)
        assert library == pytest.approx(total, rel=1e-6)
        assert difference == pytest.approx(total, rel=1e-5)


def test_e6_descends_to_the_lowest_point_of_a_bowl():
    steps = list(rows("E6", "step").values())
    for (w, b, error), (w_next, b_next, _) in itertools.pairwise(steps):
        assert error == pytest.approx(((w - 2) ** 2 + (b - 1) ** 2) / 2, rel=1e-2)
        assert (w_next, b_next) == pytest.approx(((w + 2) / 2, (b + 1) / 2), rel=1e-6)
    assert steps[-1] == pytest.approx([2, 1, 0], abs=1e-5)


def test_e6_batches_of_any_size_reach_the_same_minimum():
    table = rows("E6", "steps by")
    assert len(table) == 3
    figures = np.array([row[-4:] for row in table.values()])
    assert np.ptp(figures, axis=0).max() < 3e-3
    assert np.ptp(figures[:, -1]) < 2e-5


def test_e6_losses_and_activations():
    losses, activations = rows("E6", "dE/ds1"), rows("E6", "g(-2)")
    assert losses.keys() == LOSSES.keys()
    p = 1 / (1 + math.exp(-1.1))
    assert losses["softmax_cross_entropy"] == pytest.approx([-math.log(p), p - 1, 1 - p])
    assert losses["mean_squared_error"] == pytest.approx([0.065, -0.2, -0.3])
    assert losses["half_squared_error"] == pytest.approx([0.065, -0.2, -0.3])
    assert activations.keys() == {kind().name for kind in ACTIVATIONS.values()}
    z = np.array([-2, -0.5, 0.5, 2])
    s, e = 1 / (1 + np.exp(-z)), np.exp(z) / np.exp(z).sum()
    for name, g, slope in [
        ("sigmoid", s, s * (1 - s)),
        ("tanh", np.tanh(z), 1 - np.tanh(z) ** 2),
        ("relu", np.maximum(z, 0), np.where(z > 0, 1.0, 0.0)),
        ("softmax", e, e * (1 - e)),
    ]:
        assert activations[name] == pytest.approx([*g, *slope], rel=1e-4), name


def test_e7_counts_and_one_step():
    counts = rows("E7", "weights + biases")
    assert [row[-1] for row in counts.values() if row] == [200_960, 32_896, 1_290]
    assert "235,146" in counts
    p, t, difference, slope = np.array(list(rows("E7", "p - t").values())).T
    assert p.sum() == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(p - t, difference, atol=1e-5)
    np.testing.assert_allclose(slope, difference, atol=1e-5)
    before = float(re.search(r"E = -log p = ([\d.]+)", text("E7"))[1])
    after = float(re.search(r"E after one step of 0.01: ([\d.]+)", text("E7"))[1])
    assert before == pytest.approx(math.log(10), abs=0.7)
    assert before == pytest.approx(-math.log(p[t == 1][0]), rel=1e-3)
    assert after < before


def test_e8_the_error_falls_as_the_layer_widens():
    errors = np.array(list(rows("E8", "units").values()))
    assert np.all(np.diff(errors, axis=0) < 0)
    assert errors[-1].max() < 0.1


def test_e8_a_shallow_network_learns_more_from_a_deep_one_than_from_labels():
    table = rows("E8", "taught by")
    (_, spread, labels), *mimics = list(table.values())[1:]
    assert len(mimics) == 2
    for _, _, accuracy in mimics:
        assert accuracy > labels + spread
    assert table["the deep teacher"][-1] > labels


def test_lessons_are_the_same_each_time():
    assert LESSONS["E7"][1]() == text("E7")


# ---- the command ---------------------------------------------------------------------------------


def command(*arguments, code=0):
    result = CliRunner().invoke(cli.app, ["lesson", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def test_without_a_name_the_lessons_are_listed():
    lines = command().stdout.splitlines()
    assert lines == [f"mlpkit lesson {name}  {title}" for name, (title, _) in LESSONS.items()]


@pytest.mark.parametrize("name", ["E3", "e3"])
def test_a_lesson_by_its_name(name):
    assert command(name).stdout.rstrip() == text("E3").rstrip()


OWN = ("--sizes", "2,2,1", "--x", "2,3", "--target", "1", "--lr", "0.05")


def test_a_network_of_your_own(tmp_path):
    path = tmp_path / "weights.json"
    path.write_text(
        json.dumps({"0.weight": [[0.11, 0.12], [0.21, 0.08]], "1.weight": [[0.14], [0.15]]})
    )
    output = command(*OWN, "--activation", "linear", "--no-bias", "--weights", path).stdout
    assert output.partition("1  Forward")[2].split() != []
    assert "0.27695717" in output.splitlines()[-1]


def test_several_samples_with_labels_and_what_is_held():
    output = command(
        *("--sizes", "2,3,3", "--seed", 5, "--activation", "tanh", "--x", "0.5,1;-1,2"),
        *("--target", "2;0", "--loss", "softmax_cross_entropy", "--hold", "0.bias,1.bias"),
    ).stdout
    net = mlpkit.MLP([2, 3, 3], "tanh", dtype="float64", seed=5)
    x, labels = np.array([[0.5, 1.0], [-1.0, 2.0]]), np.array([2, 0])
    held = ["0.bias", "1.bias"]
    assert output == lesson(net, x, labels, "softmax_cross_entropy", hold=held)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_network_of_your_own_with_any_loss(loss):
    target = "2,-1,0.5" if loss == "soft_targets" else "0.2,0.3,0.5"  # scores, or shares
    options = ("--sizes", "2,3,3", "--x", "0.5,1", "--target", target, "--loss", loss)
    assert command(*options).stdout.startswith(f"21 parameters, {loss}, learning rate 0.1\n")


def test_a_network_in_a_file(tmp_path):
    net = mlpkit.MLP([2, 2, 1], "relu", seed=3)
    mlpkit.save(net, tmp_path / "net.safetensors")
    output = command(
        "--model", tmp_path / "net.safetensors", "--x", "1,-2", "--target", "0.5"
    ).stdout
    assert output == lesson(net, np.array([[1.0, -2.0]]), np.array([[0.5]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["E9"], r"unknown lesson 'E9'.* \(known: E1, "),
        (["E3", "--lr", "1"], r"the lesson E3 takes no options, got \['lr'\]"),
        (["--sizes", "2,1"], "needs --x and --target"),
        (["--x", "1,2", "--target", "1"], "needs --sizes or --model"),
        ([*OWN, "--model", "net"], r"--model is a whole network: it goes without \['sizes'\]"),
        (["--model", "nowhere", "--x", "1", "--target", "1"], "No such file .*nowhere"),
        ([*OWN, "--sizes", "2,a"], "--sizes takes sizes such as 256,128, got '2,a'"),
        ([*OWN, "--sizes", "2"], "--sizes go from the input to the output: 2,2,1, got '2'"),
        ([*OWN, "--sizes", "2,13,1"], "at most 12 units, got 13"),
        ([*OWN, "--x", "2,b"], "--x takes samples such as 2,3;4,5, got '2,b'"),
        ([*OWN, "--x", "2,3;4"], "--x takes samples"),
        ([*OWN, "--x", "2,3,4"], r"x has shape \(1, 3\)"),
        ([*OWN, "--target", "1;2"], r"targets have shape"),
        ([*OWN, "--activation", "sigmoyd"], "did you mean 'sigmoid'"),
        ([*OWN, "--loss", "huberr"], "did you mean 'huber'"),
        ([*OWN, "--hold", "3.bias"], "unknown parameter '3.bias'"),
        ([*OWN, "--weights", "{text}"], "text.json is no JSON"),
        ([*OWN, "--weights", "{list}"], "list.json holds no parameters by name"),
        ([*OWN, "--weights", "{half}"], "parameters do not match: missing"),
        ([*OWN, "--weights", "nowhere.json"], "No such file .*nowhere.json"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    places = {}
    for name, content in (("text", "no JSON"), ("list", "[1]"), ("half", '{"0.bias": [0, 0]}')):
        places[name] = tmp_path / f"{name}.json"
        places[name].write_text(content)
    result = command(*(option.format(**places) for option in options), code=1)
    (line,) = result.stderr.splitlines()
    assert line.startswith("mlpkit: ")
    assert re.search(message, line), line
