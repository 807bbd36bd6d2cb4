"""Numbers stay what they were when they were recorded, whatever room the code has moved to."""

from pathlib import Path

import pytest
from tests.golden.comparing import differences, read
from tests.golden.recording import record


@pytest.mark.filterwarnings("ignore::pellucid.concepts.ConceptWarning")
def test_every_part_gives_the_numbers_that_were_recorded() -> None:
    changed = list(differences(read(Path(__file__).parent), record()))
    assert not changed, "\n".join(changed[:40])
