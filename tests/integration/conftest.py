from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.integration.population import POPULATION
from tests.integration.session import ROOT, Session


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Ray's workers import the suites of the tests, also for commands that run in the tests' process."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    made = Session(tmp_path)
    yield made
    made.close()


@pytest.fixture
def population(session: Session) -> Session:
    """A session with a `pbt.yaml`."""
    (session.folder / "pbt.yaml").write_text(yaml.safe_dump(POPULATION))
    return session
