"""What torch.compile made, kept for the next run on the same GPU (fixed).

A compile cache holds code that whoever reads it runs, so nobody trains in the one that all read: each run gets a copy of
its own in its scratch directory, and only what the stock train.py, byte for byte the one of this package, left in its
copy is kept. A proposal that changes no graph (learning rates, schedule, batches of the same shape) finds its graphs; one that
changes the model compiles them, in 20 to 40 s before start(), so outside of its budget. A cache for each commit would spare
its replicates that, and would let a run hand its weights to the next.

Measured on a CPU with a small network: 49 s to compile, 4 s where the copy was made in another directory (inductor and
autograd both hit). Not measured on a GPU.
"""

import contextlib
import hashlib
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

NAME = "compiled"  # in the scratch directory
STOCK = Path(__file__).with_name("train.py")


class Compiled:
    """Args:
    cache: the directory that holds prepared data, and what is kept for each version of torch and of the stock train.py.
    scratch: the run's own directory.
    """

    def __init__(self, cache: Path, scratch: Path) -> None:
        made_by = metadata.version("torch").encode() + (STOCK.read_bytes() if STOCK.exists() else b"")
        self._kept = cache / f"{NAME}-{hashlib.sha256(made_by).hexdigest()[:12]}"
        self._own = scratch / NAME

    def lend(self) -> None:
        """Put a copy of what is kept, if anything, where the run may write."""
        if self._kept.is_dir():
            shutil.copytree(self._kept, self._own)
        else:
            self._own.mkdir()

    def keep(self, code: Path) -> None:
        """Keep what the run left, if its code was the stock train.py and nothing is kept yet. A full or read-only disk keeps nothing."""
        files = [path for path in code.rglob("*") if path.is_file()]
        if self._kept.exists() or files != [code / "train.py"] or not STOCK.exists() or files[0].read_bytes() != STOCK.read_bytes():
            return
        with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=self._kept.parent, prefix=f".{NAME}.") as building:
            made = shutil.copytree(self._own, Path(building, NAME), symlinks=True)
            made.rename(self._kept)
