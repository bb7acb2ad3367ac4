"""YAML 1.2: one parser, bounded in size and depth, for every text that becomes a value, and its writer.

Plain scalars have the types of YAML's core schema (https://yaml.org/spec/1.2.2, section 10.3.2): 010 is ten, 1e-3
is a float, and 1:30, yes and 2024-01-01 are texts. As extensions, underscores may group the digits of a whole
number (600_000), and merge keys (`<<: *base`) work.
"""

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml

from impala_mi.errors import UserError, shorten

MAX_BYTES = 2**20
"""Largest text."""
MAX_DEPTH = 40
"""Deepest nesting of mappings and lists."""
MAX_VALUES = 200_000
"""Most values in a text, those that aliases and merge keys repeat counted each time."""
MAX_DIGITS = 400
"""Longest number in characters."""

_TAG = "tag:yaml.org,2002:"
_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Reader of events; the one in C is faster."""
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*|0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_SPECIAL = re.compile(r"[-+]?(?:\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN")
_MERGE = object()
"""Key `<<`, whose mappings are merged into the one it stands in."""


@dataclass(frozen=True)
class _Value:
    """A built value and its extent."""

    value: Any
    size: int = 1
    """Number of values in it, itself included."""
    depth: int = 0
    """Levels of nesting in it."""


def parse_yaml(text: str, source: str) -> Any:
    """Parse a YAML text; raises `UserError` that names `source` and, where it is known, the line."""
    source = shorten(source, 120)
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise UserError(f"{source}: not valid UTF-8") from None
    if size > MAX_BYTES:
        raise UserError(f"{source}: {size:,} bytes; at most {MAX_BYTES:,} are read")
    builder = _Builder(source)
    try:
        return builder.document(yaml.parse(text, _PARSER))
    except yaml.MarkedYAMLError as e:
        builder.fail(e.problem_mark, f"not valid YAML: {e.problem or e.context}")
    except yaml.YAMLError as e:
        builder.fail(None, f"not valid YAML: {getattr(e, 'reason', None) or str(e).partition(chr(10))[0]}")


class _Builder:
    """Builder of the value of one text from YAML's events."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._anchors: dict[str, _Value | None] = {}
        self._size = 0

    def fail(self, mark: Any, problem: str) -> NoReturn:
        """Raise `UserError` that names the source and the line of a mark."""
        line = "" if mark is None else f", line {mark.line + 1}"
        raise UserError(f"{self._source}{line}: {problem}")

    def document(self, events: Iterator[Any]) -> Any:
        """Value of a stream of at most one document; None if it is empty."""
        next(events)  # start of the stream
        if isinstance(next(events), yaml.StreamEndEvent):
            return None
        value = self._value(next(events), events, 0).value
        next(events)  # end of the document
        if not isinstance(event := next(events), yaml.StreamEndEvent):
            self.fail(event.start_mark, "a second document starts; one is read")
        return value

    def _value(self, event: Any, events: Iterator[Any], depth: int) -> _Value:
        """Value that starts with an event, at a depth of nesting."""
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        if depth > MAX_DEPTH:
            self.fail(event.start_mark, f"nested deeper than {MAX_DEPTH} levels")
        if event.anchor is not None:
            self._anchors[event.anchor] = None  # an alias within the value itself would never end
        self._count(1, event)
        if isinstance(event, yaml.ScalarEvent):
            value = _Value(self._scalar(event))
        elif isinstance(event, yaml.SequenceStartEvent):
            self._check_tag(event, "seq")
            value = self._sequence(events, depth)
        else:
            self._check_tag(event, "map")
            value = self._mapping(event, events, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = value
        return value

    def _count(self, size: int, event: Any) -> None:
        self._size += size
        if self._size > MAX_VALUES:
            self.fail(event.start_mark, f"more than {MAX_VALUES:,} values, those that aliases repeat included")

    def _alias(self, event: Any, depth: int) -> _Value:
        anchor = shorten(event.anchor, 40)
        if event.anchor not in self._anchors:
            self.fail(event.start_mark, f"not valid YAML: the alias *{anchor} has no anchor before it")
        value = self._anchors[event.anchor]
        if value is None:
            self.fail(event.start_mark, f"not valid YAML: the alias *{anchor} stands in the value that it names")
        if depth + value.depth > MAX_DEPTH:
            self.fail(event.start_mark, f"nested deeper than {MAX_DEPTH} levels")
        self._count(value.size, event)
        return _Value(copy.deepcopy(value.value), value.size, value.depth)

    def _sequence(self, events: Iterator[Any], depth: int) -> _Value:
        parts: list[_Value] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            parts.append(self._value(event, events, depth + 1))
        return _enclose([part.value for part in parts], parts)

    def _mapping(self, start: Any, events: Iterator[Any], depth: int) -> _Value:
        parts: list[_Value] = []
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key = self._key(event)
            part = self._value(next(events), events, depth + 1)
            parts.append(part)
            if key is _MERGE:
                for mapping in part.value if isinstance(part.value, list) else [part.value]:
                    if not isinstance(mapping, dict):
                        self.fail(event.start_mark, "the merge key << takes a mapping, or a list of them")
                    merged = mapping | merged  # of several, the first that has a key gives its value
            elif key in own:
                self.fail(start.start_mark, f"the key {shorten(repr(key), 60)} is given twice")
            else:
                own[key] = part.value
        return _enclose(merged | own, parts)

    def _key(self, event: Any) -> Any:
        """Key of a mapping: a text, or `_MERGE`."""
        if not isinstance(event, yaml.ScalarEvent):
            self.fail(event.start_mark, "a key must be a text")
        if event.tag in (None, _TAG + "merge") and event.value == "<<" and event.implicit[0]:
            return _MERGE
        if event.anchor is not None:
            self.fail(event.start_mark, "an anchor of a key has no use")
        self._count(1, event)
        key = self._scalar(event)
        if not isinstance(key, str):
            self.fail(event.start_mark, f"the key {shorten(str(event.value), 60)} is not a text; put it in quotes")
        return key

    def _check_tag(self, event: Any, kind: str) -> None:
        if event.tag not in (None, "!", _TAG + kind):
            self.fail(event.start_mark, f"not valid YAML: the tag {shorten(event.tag, 60)} has no use here")

    def _scalar(self, event: Any) -> Any:
        text, tag = event.value, event.tag
        if tag == "!" or (tag is None and not event.implicit[0]):
            return text
        if tag is None:
            tag = _kind(text)
        elif tag.startswith(_TAG):
            tag = tag.removeprefix(_TAG)
        if tag in ("int", "float") and len(text) > MAX_DIGITS:
            self.fail(event.start_mark, f"a number of {len(text):,} characters; at most {MAX_DIGITS} are read")
        if tag == "str":
            return text
        if tag == "null" and _NULL.fullmatch(text):
            return None
        if tag == "bool" and _BOOL.fullmatch(text):
            return text.lower() == "true"
        if tag == "int" and _INT.fullmatch(text):
            return int(text.replace("_", ""), {"0o": 8, "0x": 16}.get(text[:2], 10))
        if tag == "float" and (_FLOAT.fullmatch(text) or _SPECIAL.fullmatch(text)):
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        self.fail(event.start_mark, f"not valid YAML: {shorten(repr(text), 60)} has the tag {shorten(tag, 60)}")


def _enclose(value: Any, parts: list[_Value]) -> _Value:
    """Value of a mapping or list with these parts."""
    return _Value(value, 1 + sum(part.size for part in parts), 1 + max((part.depth for part in parts), default=0))


def _kind(text: str) -> str:
    """Type of a plain scalar in the core schema."""
    if _NULL.fullmatch(text):
        return "null"
    if _BOOL.fullmatch(text):
        return "bool"
    if _INT.fullmatch(text):
        return "int"
    return "float" if _FLOAT.fullmatch(text) or _SPECIAL.fullmatch(text) else "str"


class _Dumper(yaml.SafeDumper):
    """Writer that quotes the texts that YAML 1.1 or 1.2 would read as another type."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver(_TAG + "int", re.compile(f"^(?:{_INT.pattern})$"), list("-+0123456789"))
_Dumper.add_implicit_resolver(_TAG + "float", re.compile(f"^(?:{_FLOAT.pattern})$"), list("-+.0123456789"))


def dump_yaml(values: Any) -> str:
    """YAML text of nested mappings, in their order, which `parse_yaml` and readers of YAML 1.1 read alike."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=False)
