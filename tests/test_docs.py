"""The documents name files, functions, commands, keys and links that exist."""

import ast
import re
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

from impala_mi.cli.main import COMMANDS, cli
from impala_mi.cli.reproduce import EXPERIMENTS
from impala_mi.pbt.settings import PopulationConfig

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS.append(ROOT / "docs/reproductions/README.md")
TIMELESS = [path for path in DOCUMENTS if path.name != "lab-notebook.md"]
"""Documents about the present; the notebook quotes commands of earlier revisions."""
SECTIONS = tuple(name for name in PopulationConfig.model_fields if name != "seed")
NOT_KEYS = ("py", "md", "png", "jsonl", "yaml")
"""What may follow the name of a section in the name of a file."""

over_documents = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
over_timeless = pytest.mark.parametrize("path", TIMELESS, ids=lambda path: str(path.relative_to(ROOT)))


def code_of(text: str) -> str:
    """Shell and YAML blocks and code spans of a document, one a line."""
    blocks = re.findall(r"^```(?:sh|yaml)\n(.*?)^```", text, re.M | re.S)
    spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    return "\n".join([*blocks, *(" ".join(span.split()) for span in spans)])


def source(name: str) -> Path:
    """File that a document names: relative to the repository, or to the package."""
    return next((p for p in (ROOT / name, ROOT / "impala_mi" / name) if p.is_file()), ROOT / name)


def anchors(path: Path) -> set[str]:
    """Anchors of the headings of a document, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def names(body: list[ast.stmt], prefix: str = "") -> set[str]:
    """Functions, classes and module variables; methods as `Class.method`."""
    found: set[str] = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(prefix + node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {prefix + node.name} | names(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {prefix + target.id for target in targets if isinstance(target, ast.Name)}
    return found


@over_timeless
def test_functions_exist(path: Path) -> None:
    """Every `file.py:function`."""
    for file, name in re.findall(r"`([\w/]+\.py):([\w.]+)`", path.read_text()):
        assert source(file).is_file(), f"{file} does not exist"
        assert name in names(ast.parse(source(file).read_text()).body), f"{file} has no {name}"


@over_timeless
def test_files_exist(path: Path) -> None:
    """Every `folder/file.py`."""
    for file in re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:py|yaml|md|sh))[`:]", path.read_text()):
        assert source(file).is_file() or (path.parent / file).is_file(), f"{file} does not exist"


def test_architecture_lists_all_packages() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)/` \| (.*?) \|", text, re.M))
    assert rows.keys() == {file.parent.name for file in (ROOT / "impala_mi").glob("*/__init__.py")}
    for package, contents in rows.items():
        for module in re.findall(r"`(\w+)`", contents):
            assert (ROOT / "impala_mi" / package / f"{module}.py").is_file(), f"{package}/ has no {module}"
    for file in (ROOT / "impala_mi").glob("[a-z]*.py"):
        assert f"`{file.name}`" in text, f"nothing about {file.name}"


@over_documents
def test_links_resolve(path: Path) -> None:
    """Every relative link and picture, and every anchor within the documents."""
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = path if not name else path.parent / name
        assert target.exists(), f"{link} does not exist"
        if anchor:
            assert anchor in anchors(target), f"{link}: no such heading"


@over_timeless
def test_commands_and_options_exist(path: Path) -> None:
    """Every `impala-mi COMMAND`, with its options."""
    for line in code_of(path.read_text()).replace("\\\n", " ").splitlines():
        call = re.search(r"(?:^|[\s(])impala-mi ([a-z]+)((?: [^#|;)]*)?)", line)
        if call is None:
            continue
        name, arguments = call.groups()
        assert name in COMMANDS, line
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        words = arguments.split()
        while isinstance(command, click.Group) and words:
            inner = command.get_command(click.Context(command), words.pop(0))
            assert inner is not None, line
            command = inner
        options = {option for parameter in command.params for option in parameter.opts}
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in options, f"{line}: no option {word}"


def test_reproductions_exist() -> None:
    text = (ROOT / "docs/reproductions/README.md").read_text()
    assert set(re.findall(r"impala-mi reproduce ([a-z-]+)", text)) == {*EXPERIMENTS, "redraw"}


@over_timeless
def test_keys_exist(path: Path) -> None:
    """Every configuration key, as `section.key`."""
    pattern = rf"(?<![\w./-])({'|'.join(SECTIONS)})((?:\.[a-z_]+)+)(?![\w(])"
    for section, rest in re.findall(pattern, code_of(path.read_text())):
        model: object = PopulationConfig.model_fields[section].annotation
        for key in rest[1:].split("."):
            if key in NOT_KEYS or not (isinstance(model, type) and issubclass(model, BaseModel)):
                break
            assert key in model.model_fields, f"{section}{rest} is not a key"
            model = model.model_fields[key].annotation
