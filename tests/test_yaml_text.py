import itertools
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from impala_mi.errors import UserError
from impala_mi.yaml_text import MAX_BYTES, MAX_DEPTH, dump_yaml, parse_yaml
from tests.texts import texts

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**30), 10**30),
        st.floats(allow_nan=False),
        texts(),
        st.sampled_from(
            ["010", "1:30", "0o7", "1e3", "yes", "null", "~", "2024-01-01", "<<", "=", "1_000", ".inf", ""]
        ),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts(), inner, max_size=4)),
    max_leaves=12,
)


@pytest.mark.slow
@given(VALUES)
def test_what_is_written_is_read_again(value):
    assert parse_yaml(dump_yaml(value), "x") == value


@pytest.mark.slow
@given(VALUES)
def test_readers_of_version_1_1_read_the_same(value):
    assert yaml.safe_load(dump_yaml(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("1:30", "1:30"),
        ("1e-3", 1e-3),
        (".5", 0.5),
        ("5.", 5.0),
        ("-.inf", -float("inf")),
        ("600_000", 600_000),
        ("0b11", "0b11"),
        ("yes", "yes"),
        ("off", "off"),
        ("TRUE", True),
        ("~", None),
        ("", None),
        ("2024-01-01", "2024-01-01"),
        ("2024-13-45", "2024-13-45"),
        ("0x_", "0x_"),
        ("'010'", "010"),
        ("! 10", "10"),
        ("!!str 10", "10"),
        ("!!int '10'", 10),
        ("!!float 1", 1.0),
        ("!!null ''", None),
        ("+7", 7),
        ("=", "="),
        ("{a: &x [1], b: *x}", {"a": [1], "b": [1]}),
        ("# nothing", None),
        ("--- 3\n...", 3),
        ("٣", "٣"),
        ("{'<<': 1}", {"<<": 1}),
    ],
)
def test_types_of_the_core_schema(text, value):
    read = parse_yaml(text, "x")
    assert read == value
    assert type(read) is type(value)


def test_merge_keys_add_what_is_not_given():
    text = """
base: &base {batch_size: 32, unroll_length: 20}
other: &other {batch_size: 64, epsilon: 0.1}
one: {<<: *base, batch_size: 16}
two:
  <<: [*base, *other]
"""
    read = parse_yaml(text, "x")
    assert read["one"] == {"batch_size": 16, "unroll_length": 20}
    assert read["two"] == {"batch_size": 32, "unroll_length": 20, "epsilon": 0.1}
    assert read["two"] == yaml.safe_load(text)["two"]
    read["one"]["unroll_length"] = 1
    assert read["base"]["unroll_length"] == 20  # what an alias repeats is a copy


def bomb(links: int) -> str:
    names = [f"n{i}" for i in range(links)]
    rest = [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in itertools.pairwise(names)]
    return "\n".join([f"{names[0]}: &{names[0]} [{', '.join('x' * 9)}]", *rest])


def merge_bomb(links: int) -> str:
    lines = ["n0: &n0 {a: 1}"]
    lines += [f"n{i}: &n{i} {{<<: [{', '.join([f'*n{i - 1}'] * 9)}]}}" for i in range(1, links)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (bomb(12), "more than 200,000 values"),
        (merge_bomb(12), "more than 200,000 values"),
        ("[" * 3000, "nested deeper than 40"),
        ("- " * 3000, "nested deeper"),
        ("{a: " * 3000, "nested deeper"),
        ("&a [*a]", "stands in the value that it names"),
        ("a: &a\n  <<: *a", "line 2: not valid YAML: the alias"),
        ("*x", "the alias .x has no anchor before it"),
        ("9" * 5000, "a number of 5,000 characters"),
        ("!!int x", "'x' has the tag int"),
        ("!!float x", "has the tag float"),
        ("!!timestamp x", "has the tag timestamp"),
        ("!!bool 3", "has the tag bool"),
        ("!!set {a}", "the tag .*set has no use"),
        ("!!binary x", "has the tag binary"),
        ("!!omap [a: 1]", "the tag .*omap has no use"),
        ("!mine x", "has the tag !mine"),
        ("{a: 1, a: 2}", "the key 'a' is given twice"),
        ("{1: a, 1: b, x: c, x: d}", "the key 1 is not a text"),
        ("{[a]: 1, [a]: 2}", "a key must be a text"),
        ("{<<: 3}", "the merge key << takes a mapping"),
        ("--- 1\n--- 2", "second document"),
        ("a: b: c", "line 1: "),
        ("\0", "not valid YAML"),
        ('"\\ud800"', "not valid YAML"),
        ("\udcff", "not valid UTF-8"),
        ("x" * (MAX_BYTES + 1), "1,048,577 bytes; at most 1,048,576"),
        ("%YAML 9.9\n--- 1", "not valid YAML"),
    ],
)
def test_what_is_refused_is_refused_in_one_short_line(text, says):
    start = time.process_time()
    with pytest.raises(UserError, match=says) as e:
        parse_yaml(text, "my.yaml")
    assert time.process_time() - start < 5
    assert str(e.value).startswith("my.yaml")
    assert len(str(e.value)) < 300
    assert str(e.value).isprintable()


def test_the_deepest_that_is_read():
    assert parse_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH, "x")
    with pytest.raises(UserError, match="nested deeper"):
        parse_yaml("a: &a " + "[" * 30 + "]" * 30 + "\nb: " + "[" * 20 + "*a" + "]" * 20, "x")


def test_many_keys_are_read_quickly():
    start = time.process_time()
    assert len(parse_yaml("".join(f"key{i}: 1\n" for i in range(20_000)), "x")) == 20_000
    assert time.process_time() - start < 5
