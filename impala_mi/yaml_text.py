"""YAML with the floats of version 1.2 and without duplicate keys."""

import re
from typing import Any

import yaml

from impala_mi.errors import UserError


class _Loader(yaml.SafeLoader):
    """Safe loader that reads 1e-3 as a float and refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(k, deep=True) for k, _ in node.value]
        duplicates = {k for k in keys if keys.count(k) > 1}
        if duplicates:
            raise UserError(f"line {node.start_mark.line + 1}: the key {sorted(duplicates)[0]!r} is given twice")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def parse_yaml(text: str, source: str) -> Any:
    """Parse a YAML text; raises `UserError` that names `source` and the line."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise UserError(f"{source}{line}: not valid YAML: {getattr(e, 'problem', None) or e}") from None
    except UserError as e:
        raise UserError(f"{source}: {e}") from None
