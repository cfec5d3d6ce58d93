"""Reads YAML files, and refuses a key that stands twice in one mapping: YAML's own readers take the last one."""

from pathlib import Path
from typing import Any

import yaml

from t3d.errors import ParameterError

_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also compares the keys of a mapping as they are written, before merges are added."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        assert node is not None
        lines: dict[Any, int] = {}
        for key_node in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            # By value, since `1` and `1.0` are one key.
            key = key_node.value if key_node.tag == _MERGE else self.construct_object(key_node)
            line = key_node.start_mark.line + 1
            if key in lines:
                where = f"on line {line}" if lines[key] == line else f"on lines {lines[key]} and {line}"
                raise yaml.composer.ComposerError(f"key {key!r} stands twice in one mapping, {where}")
            lines[key] = line
        return node


def read_yaml(path: Path) -> Any:
    """What a YAML file holds; anchors and merges are allowed, and a key beside a merge overrides what is merged.

    Raises:
        ParameterError: it is not YAML, or a key stands twice in one mapping; the message gives file, key and lines.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} is not valid YAML: {error}.") from error
