"""HTML pages from the package's templates; a page fetches nothing from elsewhere."""

import html
from typing import Any

import plotly
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from impala_mi.errors import printable


def render_page(template: str, **values: Any) -> str:
    """Text of a page; the template also gets Plotly's JavaScript as `plotly`."""
    environment = Environment(
        loader=PackageLoader("impala_mi.analysis"), autoescape=True, trim_blocks=True, finalize=_finalized
    )
    return environment.get_template(template).render(plotly=Markup(plotly.offline.get_plotlyjs()), **values)


def figure_html(figure: Any, **options: Any) -> Markup:
    """HTML of a Plotly figure for a page, without Plotly's JavaScript."""
    return Markup(figure.to_html(full_html=False, include_plotlyjs=False, **options))


def plain(text: str) -> str:
    """Text for a Plotly figure, which would read tags and entities in it."""
    return html.escape(printable(text), quote=False)


def _finalized(value: Any) -> Any:
    """Value of a template's expression, with control characters and direction marks of names escaped."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
