"""One script for each question; RESULTS.md has the answers. Run from the root: python -m benchmarks.NAME"""

import tempfile
from pathlib import Path

HOME = Path(tempfile.gettempdir()) / "coyo-bench"  # corpora and checkpoints, drawn once and kept
