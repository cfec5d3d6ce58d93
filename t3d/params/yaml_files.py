"""Reads YAML files, and refuses a key that stands twice in one mapping: YAML's own readers take the last one."""

from pathlib import Path
from typing import Any

import yaml
from yaml._yaml import CParser

from t3d.errors import MissingInputError, ParameterError, reading

_MAX_BYTES = 2**24
"""Of a file, 400 times the longest here; dvc.lock of an experiment has thousands of lines, too."""
_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.composer.Composer, CParser, yaml.constructor.SafeConstructor, yaml.resolver.Resolver):
    """PyYAML's safe loader on libyaml's events, a fifth of the time. It also compares the keys of a mapping as they are
    written, before merges are added."""

    def __init__(self, text: str) -> None:
        CParser.__init__(self, text)
        yaml.composer.Composer.__init__(self)
        yaml.constructor.SafeConstructor.__init__(self)
        yaml.resolver.Resolver.__init__(self)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        assert node is not None
        lines: dict[Any, int] = {}
        for key_node in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            # By value, since `1` and `1.0` are one key.
            key = key_node.value if key_node.tag == _MERGE else self.construct_object(key_node)
            if not isinstance(key, str | int | float):
                raise yaml.composer.ComposerError(
                    f"{key_node.value!r} is no key, on line {key_node.start_mark.line + 1}"
                )
            line = key_node.start_mark.line + 1
            if key in lines:
                where = f"on line {line}" if lines[key] == line else f"on lines {lines[key]} and {line}"
                raise yaml.composer.ComposerError(f"key {key!r} stands twice in one mapping, {where}")
            lines[key] = line
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Add what is merged, each key once, in its first place with its last value: copies of copies do not grow."""
        super().flatten_mapping(node)
        last = {}
        for key, value in node.value:
            last[key.tag, key.value if isinstance(key, yaml.ScalarNode) else id(key)] = key, value
        node.value = list(last.values())


def read_yaml(path: Path) -> Any:
    """What a YAML file holds; anchors and merges are allowed, and a key beside a merge overrides what is merged.

    Raises:
        ParameterError: it is not YAML, or a key stands twice in one mapping; the message gives file, key and lines.
    """
    if not path.is_file():
        raise MissingInputError(f"{path} is missing, or is no plain file.")
    if path.stat().st_size > _MAX_BYTES:
        raise ParameterError(f"{path} has more than {_MAX_BYTES} bytes; parameters are shorter.")
    with reading(path, "Correct it.", ParameterError, "is not valid YAML"):
        return _Loader(path.read_text(encoding="utf-8")).get_single_data()
