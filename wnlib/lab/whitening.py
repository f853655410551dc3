"""Whitenings that outlast a process: their eigenvectors take seconds."""

from contextlib import suppress
from secrets import token_hex
from typing import Any

import numpy as np
import torch

from wnlib.data import DataError, cache_dir
from wnlib.inputs import ZCA


class Whitenings(dict[str, ZCA]):
    """By the digest of their data; what is not in memory is looked for in the cache folder."""

    def get(self, digest: str, default: Any = None) -> Any:
        """The whitening of that data set, if there is one, its regularization the default."""
        if digest not in self:
            try:
                with (cache_dir() / f"whitening-{digest}.npz").open("rb") as opened:
                    file = np.load(opened)  # no pickle
                    parts = [torch.from_numpy(file[n]) for n in ("mean", "values", "vectors")]
            except Exception:  # missing or damaged, in any of the ways a file can be
                return default
            if [part.shape for part in parts] != [(3072,), (3072,), (3072, 3072)]:
                return default
            super().__setitem__(digest, ZCA(*parts, regularization=1e-5))
        return self[digest]

    def __setitem__(self, digest: str, zca: ZCA) -> None:
        super().__setitem__(digest, zca)
        mean, values, vectors = zca.mean, zca.eigenvalues, zca.eigenvectors
        with suppress(OSError, DataError):  # a cache that cannot be written is done without
            folder = cache_dir()
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f"{token_hex(4)}.partial.npz"  # never half a file by that name
            try:
                np.savez(partial, mean=mean, values=values, vectors=vectors)
                partial.replace(folder / f"whitening-{digest}.npz")
            finally:
                partial.unlink(missing_ok=True)
