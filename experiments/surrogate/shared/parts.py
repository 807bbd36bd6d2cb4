"""The parts of a long experiment, each kept on disk once it is done."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pellucid.storage import write_atomically


@dataclass(frozen=True)
class Parts:
    """Results by name, as JSON in a folder.

    Attributes:
        folder: where they are kept.
        settings: what they depend on; parts that were made with others are made again.
    """

    folder: Path
    settings: Mapping[str, Any]

    def part(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` returns, or what it returned in an earlier run with the same settings; as JSON has it."""
        file = self.folder / f"{name.replace(' ', '_').replace(',', '')}.json"
        settings = json.loads(json.dumps(self.settings))
        if file.exists():
            kept = json.loads(file.read_text())
            if kept["settings"] == settings:
                return kept["result"]
        print(name, flush=True)
        content = json.dumps({"settings": settings, "result": make()})
        write_atomically(file, content.encode())
        return json.loads(content)["result"]
