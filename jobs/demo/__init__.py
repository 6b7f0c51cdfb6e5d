"""The embedded demo: a corpus that can be drawn anywhere and two small checkpoints trained on it."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
