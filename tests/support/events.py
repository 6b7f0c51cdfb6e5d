"""The stderr of a run with `--log json`."""

import json
from typing import Any


def events(err: str) -> list[dict[str, Any]]:
    """Every line, which must be one."""
    return [json.loads(line) for line in err.splitlines()]
