"""YAML files: a key stands once, and what is merged can be overridden."""

import pytest
import yaml

from t3d import params
from t3d.errors import ParameterError
from t3d.params.yaml_files import read_yaml
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gsm: 1\nlines: [\n]\ngsm: 2", "key 'gsm' stands twice in one mapping, on lines 1 and 4"),
        ("a: {steps: 40, rate: 1, steps: 4}", "key 'steps' stands twice in one mapping, on line 1"),
        ("ratios:\n  1: 0.5\n  1.0: 0.5", "key 1.0 stands twice in one mapping, on lines 2 and 3"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n  <<: *x", "key '<<' stands twice in one mapping, on lines 3 and 4"),
        ("x: &x {a: 1}\ny: {<<: *x, a: 2, 'a': 3}", "key 'a' stands twice in one mapping, on line 2"),
    ],
)
def test_a_key_that_stands_twice_is_named_with_its_lines(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ParameterError, match=rf"a\.yaml is not valid YAML: {message}"):
        params.load(tmp_path / "a.yaml")


def test_what_is_merged_can_be_overridden(tmp_path):
    lines = ["x: &x {rate: 1, steps: 1}", "y: &y {<<: *x, rate: 2}", "z: {<<: *y, steps: 3}", "again: *y"]
    (tmp_path / "a.yaml").write_text("\n".join(lines))
    second = {"rate": 2, "steps": 1}
    merged = {"x": {"rate": 1, "steps": 1}, "y": second, "z": {"rate": 2, "steps": 3}, "again": second}
    assert read_yaml(tmp_path / "a.yaml") == merged


@pytest.mark.parametrize("path", sorted((ROOT / "params").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_file_says_what_it_says_to_pyyaml_alone(path):
    assert repr(read_yaml(path)) == repr(yaml.safe_load(path.read_text()))
