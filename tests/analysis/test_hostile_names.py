"""Names of others (levels, instructions, runs, events) are shown as text in pages, Markdown and terminals."""

import dataclasses
import html
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Group

from impala_mi.analysis.evaluation import Evaluation, LevelResult, Summary, draw_scores
from impala_mi.analysis.recording import Recording
from impala_mi.analysis.report import write_report
from impala_mi.analysis.tsne import Panel
from impala_mi.analysis.tsne_page import write_tsne_page
from impala_mi.cli import evaluate, watch
from impala_mi.cli.console import SafeConsole
from impala_mi.errors import printable
from impala_mi.pbt.lineage import Generation, MemberHistory
from impala_mi.pbt.pictures import draw_populations, page
from tests.analysis.test_report import history

HIT = "document.title='hit'"
NAMES = (
    f"<script>{HIT}</script>", f'"><img src=x onerror="{HIT}">', f"[x](javascript:{HIT})", "a|b\nc",
    f'<a href="javascript:{HIT}">click</a>', "\u202eevil", "\x1b[31mred\x1b]0;title\x07", "%{x} {{ 7 * 7 }}",
    f"</script><script>{HIT}</script>", "<b>bold</b>", "&lt;i&gt;", "<!-- `x` *y* _z_", "# head", "$\\nothing$",
    "[/] [red]",
)  # fmt: skip
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Tags(HTMLParser):
    """Tags of a page that names could have smuggled in, and its texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.smuggled, self.texts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if (
            any(name.startswith("on") for name in values)
            or "javascript:" in str(values.get("href"))
            or tag in ("b", "i", "u", "a")
            or (tag == "img" and not (values.get("src") or "data:").startswith("data:"))
        ):
            self.smuggled.append((tag, attributes))

    def handle_data(self, data):
        self.texts.append(data)
        if data.strip().startswith(HIT):
            self.smuggled.append(("script", data))


def write_pages(folder: Path) -> list[Path]:
    runs = []
    for i, name in enumerate(NAMES):
        run = history(name, head=name, levels=NAMES, n=5, end="failed" if i % 2 else "done")
        run.events[name] = 1
        run.newest[-1]["error"] = f"{name}: because"
        runs.append(dataclasses.replace(run, path=f"runs/{i}"))
    report, markdown, _ = write_report(runs, NAMES[1] + NAMES[3], folder)
    count, rng = len(NAMES), np.random.default_rng(0)
    data = Recording(
        list(NAMES), np.arange(count), np.arange(count), np.zeros(count, int), np.array(NAMES),
        rng.integers(0, 255, (count, 8, 8, 3), np.uint8), {"core": rng.normal(size=(count, 5)).astype(np.float32)},
    )  # fmt: skip
    panels = [Panel(name, data, "core", rng.normal(size=(count, 2)), "t-SNE") for name in NAMES[:2]]
    write_tsne_page(panels, NAMES[8], folder / "tsne.html")
    return [report, folder / "tsne.html", markdown]


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> list[Path]:
    return write_pages(tmp_path_factory.mktemp("pages"))


def without_library(page: str) -> str:
    """A page without Plotly's JavaScript, whose texts are no markup."""
    start, rest = page.split("<script>", 1)
    return start + rest.split("</script>\n</head>", 1)[1]


def test_pages_hold_no_tags_of_names(pages):
    for file in pages[:2]:
        content = without_library(file.read_text())
        assert not Tags(content).smuggled
        assert not {"\u202e", "\x1b"} & set(content)
    report = Tags(without_library(pages[0].read_text())).texts
    for name in NAMES:
        assert printable(name) in report, "it is shown as it is written"


def test_markdown_holds_no_markup_of_names(pages):
    from markdown_it import MarkdownIt

    text = pages[2].read_text()
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    tokens = [token for block in parser.parse(text) for token in (block, *(block.children or ()))]
    kinds = {token.type for token in tokens}
    assert not kinds & {
        "html_block", "html_inline", "link_open", "image", "em_open", "strong_open", "s_open", "code_inline",
        "bullet_list_open", "ordered_list_open", "fence",
    }  # fmt: skip
    assert sum(token.type == "heading_open" and token.tag == "h1" for token in tokens) == 1
    shown = {token.content for block in tokens if block.type == "inline" for token in [Joined(block)]}
    for name in NAMES:
        assert printable(name) in shown, "it is shown as it is written"


class Joined:
    """Text of an inline block."""

    def __init__(self, block):
        self.content = "".join(child.content for child in block.children)


def rendered(*renderables: object) -> str:
    console = SafeConsole(markup=False, emoji=False, width=4000, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(Group(*renderables))
    return capture.get()


def test_terminals_show_names_and_do_not_obey_them():
    run = history(NAMES[6], levels=NAMES)
    run.newest.append({"event": "fault", "time": "t", "error": "".join(NAMES)})
    table = evaluate._table(evaluation(), NAMES[6])
    shown = rendered(watch.view(run, 0.0), watch.overview(NAMES[6], [run]), table, *NAMES)
    for name in NAMES:
        assert printable(name) in shown
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)


def evaluation() -> Evaluation:
    summary = Summary(2, 1.0, 0.1, 0.9, 1.1, 5.0)
    levels = [LevelResult(name, summary, summary, 0.0, 2.0, 50.0, 0) for name in NAMES]
    return Evaluation(levels, 50.0, (40.0, 60.0), {})


def test_pictures_show_dollar_signs(tmp_path):
    draw_scores(evaluation(), NAMES[13], tmp_path / "x.png")
    histories = {name: MemberHistory(name, 0, [Generation(0, 0, {"learner.x": name})], [1, 2], [0.0, 1.0])
                 for name in NAMES}  # fmt: skip
    draw_populations(histories, False, NAMES[13], tmp_path / "y.png")
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_the_page_of_a_population_holds_no_tags_of_names(tmp_path):
    histories = {name: MemberHistory(name, 0, [Generation(0, 0, {"learner.x": name})], [1, 2], [0.0, 1.0])
                 for name in NAMES}  # fmt: skip
    page(histories, NAMES[0], tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text()
    data = text[text.index("Plotly.newPlot(") :]
    assert "<img" not in data
    assert "<script>doc" not in data
    assert "lt;script" in data, "Plotly shows the tag and does not read it"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_runs_no_name_and_shows_all(pages, tmp_path):
    for file in pages[:2]:
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}",
            "--virtual-time-budget=20000", "--dump-dom", file.as_uri(),
        ]  # fmt: skip
        dom = subprocess.run(command, capture_output=True, text=True, timeout=180).stdout
        title = html.unescape(dom.split("<title>", 1)[1].split("</title>")[0])
        assert title in map(printable, (NAMES[8], NAMES[1] + NAMES[3])), "a script of a name would have set another"
        legend = {html.unescape(text) for text in re.findall(r'class="legendtext"[^>]*>(.*?)</text>', dom)}
        for name in NAMES:
            assert legend & {printable(name), f"head={printable(name)}"}, name
