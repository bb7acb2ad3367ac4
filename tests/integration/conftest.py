from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.integration.population import POPULATION
from tests.integration.session import Session


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
