"""Benchmarks, one script per question. RESULTS.md has the results. Run them in the root: python -m benchmarks.NAME"""

import tempfile
from pathlib import Path

HOME = Path(tempfile.gettempdir()) / "coyo-bench"  # corpora and checkpoints, made once and kept
