"""Keeps what torch.compile produced, for the next run on the same kind of GPU (fixed).

A compile cache holds code that its readers run, so no run trains in the shared one. Each run gets a copy in its scratch directory.
Only what the stock train.py left in its copy is kept, and stock means byte for byte the one of this package.

- A proposal that changes no graph (learning rates, schedule, batches of the same shape) finds its graphs.
- One that changes the model compiles them in 20 to 40 s, before start() and so outside of its budget. Once it is the champion, so does
  all that is built on it. A cache for each commit would spare its replicates that, and would let a run hand its weights to the next.
- A machine of one's own keeps what its first stock run left.
- A machine that is rented for a single run keeps nothing, as its image has no stock train.py to compare with. Its spec names an
  archive that `launch --stage compile` wrote once (server/compute/modal/compile_cache.py).
- The cache is one archive, there whole or not at all: hundreds of small files would each cost a round trip on a mounted volume.
- Model servers get none: `build_model` of the stock train.py compiles nothing, main() does. An agent's may compile in its server's home.

Measured on a CPU with a small network: 49 s to compile, 4 s where the copy was restored in another directory (inductor and
autograd both hit). Not measured on a GPU.
"""

import contextlib
import hashlib
import shutil
import tempfile
import zipfile
import zlib
from importlib import metadata
from pathlib import Path

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
STOCK = Path(__file__).with_name("train.py")


def kept_in(cache: Path) -> Path:
    """Name the archive that this machine keeps beside its prepared data: one for each version of torch and of the stock train.py."""
    made_by = metadata.version("torch").encode() + (STOCK.read_bytes() if STOCK.exists() else b"")
    return cache / f"compiled-{hashlib.sha256(made_by).hexdigest()[:12]}.zip"


def is_stock(code: Path) -> bool:
    """Return whether a directory holds the stock train.py and nothing else."""
    files = [path for path in code.rglob("*") if path.is_file()]
    return files == [code / STOCK.name] and STOCK.exists() and files[0].read_bytes() == STOCK.read_bytes()


class CompileCache:
    """The compile cache of one run.

    Attributes:
        own: the run's copy.

    Args:
        kept: the archive, which may be missing.
        scratch: the run's own directory.
    """

    def __init__(self, kept: Path, scratch: Path) -> None:
        self._kept = kept
        self.own = scratch / "compiled"

    def restore(self) -> bool:
        """Unpack the archive where the run may write.

        Returns:
            Whether there was anything to restore. A damaged archive counts as nothing.
        """
        self.own.mkdir()
        try:
            with zipfile.ZipFile(self._kept) as archive:  # whose extraction never leaves the directory, and makes no links
                archive.extractall(self.own)
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError):  # RuntimeError: encrypted, or no such method
            shutil.rmtree(self.own)
            self.own.mkdir()
            return False
        return True

    def keep(self) -> None:
        """Keep what the run left, unless it left nothing or an archive is there already. On a full or read-only disk nothing is kept."""
        files = [path for path in sorted(self.own.rglob("*")) if path.is_file() and not path.is_symlink()]
        if not files or self._kept.exists():
            return
        with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=self._kept.parent, prefix=f".{self._kept.name}.") as building:
            with zipfile.ZipFile(Path(building, "zip"), "w", strict_timestamps=False) as archive:
                for path in files:
                    archive.write(path, path.relative_to(self.own))
            Path(building, "zip").rename(self._kept)
