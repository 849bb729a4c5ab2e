"""The layer table, for people and as JSON."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from search_space import NETWORKS, count
from search_space.comparators import COMPARATORS
from search_space.complexity import count_network
from search_space.describe import main
from search_space.errors import UserError


@pytest.mark.parametrize("name", NETWORKS)
def test_json_is_one_document_that_adds_up(name, capsys):
    assert main([name, "--input", "431x256", "--classes", "50", "--json"]) == 0
    network = json.loads(capsys.readouterr().out)
    cost = count(NETWORKS[name], (431, 256), 50)
    assert list(network) == [
        "architecture", "preset", "input", "n_classes", "params", "macs", "macs_by", "param_bytes", "peak_activation_bytes",
        "receptive_field", "layers",
    ]  # fmt: skip
    assert (network["architecture"], network["preset"]) == (str(NETWORKS[name]), name)
    assert network["macs_by"] == cost.macs_by
    assert network["param_bytes"] == {"float32": 4 * cost.params, "float16": 2 * cost.params, "int8": cost.params}
    assert network["peak_activation_bytes"]["float32"] == 4 * cost.peak_activations
    assert network["receptive_field"] == list(cost.receptive_field)
    assert (network["input"], network["n_classes"]) == ([431, 256], 50)
    assert network["params"] == cost.params == sum(layer["params"] for layer in network["layers"])
    assert network["macs"] == cost.macs == sum(layer["macs"] for layer in network["layers"])
    assert network["layers"][0] == {
        "name": "stem.conv", "kind": "3x3", "shape": [28, 431, 256], "params": 252, "macs": 252 * 431 * 256
    }  # fmt: skip


@pytest.mark.parametrize(("name", "first"), [("resnet34", "trunk.0.conv"), ("sp4asc", "norm"), ("dsmn-1", "stem")])
def test_a_comparator_has_a_name_and_layers_and_no_architecture(name, first, capsys):
    assert main([name, "--input", "44x64", "--classes", "7", "--json"]) == 0
    network = json.loads(capsys.readouterr().out)
    cost = count_network(name, (44, 64), 7)
    assert (network["architecture"], network["preset"], network["n_classes"]) == (None, name, 7)
    assert (network["params"], network["macs"], network["macs_by"]) == (cost.params, cost.macs, cost.macs_by)
    assert network["layers"][0]["name"] == first
    assert network["macs"] == sum(layer["macs"] for layer in network["layers"])
    assert main([name, "--input", "44x64"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{name}\ninput 44 frames x 64 mels, 10 classes\n")
    assert f"{network['layers'][0]['macs']:,}" in text


def test_help_names_every_network(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split()).replace("- ", "-")
    assert all(name in text for name in (*NETWORKS, *COMPARATORS))


def test_shapes_halve_and_end_in_the_classes(capsys):
    main(["dssdn-large", "--json"])
    layers = json.loads(capsys.readouterr().out)["layers"]
    pooled = [layer["shape"] for layer in layers if layer["name"].endswith(".pool")]
    assert pooled == [[44, 215, 128], [60, 107, 64], [60, 53, 32], [60, 26, 16], [60, 13, 8]]
    assert layers[-1]["shape"] == [10, 1, 1]


def test_the_table_names_every_layer_and_the_total(capsys):
    main(["dssdn_c8-12-16_r0.5_spc.p0.25_h64"])
    text = capsys.readouterr().out
    assert "dssdn_c8-12-16_r0.5_spc.p0.25_h64" in text
    assert "blocks.1.second.operator.partial.pointwise" in text
    assert "431 frames x 256 mels, 10 classes" in text
    assert text.index("head.classes") < text.index("total")
    words = " ".join(text.split())
    for fact in ("MACs, conv+linear", "MACs, fvcore", "MACs, dcase", "as float16", "peak activation bytes"):
        assert fact in words
    assert "receptive field 24 frames x 24 mels" in words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dssdn-huge"], "unknown network 'dssdn-huge'; .*known:"),
        (["dssdn-large", "--input", "256"], "an input is frames x mels.*got '256'"),
        (["resnet34", "--input", "16x64"], "at least 32 frames x 32 mels; got 16 x 64"),
        (["sp4asc", "--classes", "0"], "at least 2 classes, a whole number; got 0"),
        (["dssdn-large", "--classes", "1"], "at least 2 classes, a whole number; got 1"),
    ],
)
def test_bad_input_is_explained(arguments, message):
    with pytest.raises(UserError, match=message):
        main(arguments)


def test_the_command_fails_with_one_plain_line():
    command = [sys.executable, "-m", "search_space.describe", "dssdn_c28", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: 'dssdn_c28' is not the notation")
    assert done.stderr.count("\n") == 1
