"""What an inference worker keeps loaded: each base once, with its engine, and the patches used last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Lock

from ...models.bases import Base, load_base
from ...models.engine import Engine
from ...models.patches.patch import Patch, load_patch
from ...policies.base_name import packaged
from ...policies.errors import PatchMismatchError
from .protocol import RungRef

PATCH_BYTES = 64 * 1024 * 1024  # a scale-and-bias patch of Lite0 is 0.3 MB, so this is some 200 of them

_Key = tuple[str, str | None, str]


class Library:
    """Bases, engines and patches. Safe for use from several threads; the engines themselves are not."""

    def __init__(
        self, make_engine: Callable[[Base], Engine], versions: Path | None = None, patch_bytes: int = PATCH_BYTES
    ) -> None:
        """`versions` is the folder of base versions; each shares what it can with its packaged base."""
        self._make_engine, self._versions, self._limit = make_engine, versions, patch_bytes
        self._loaded: dict[str, Base] = {}  # packaged bases under versions are here without an engine
        self._bases: dict[str, tuple[Base, Engine]] = {}
        self._patches: OrderedDict[_Key, Patch] = OrderedDict()
        self._bases_lock, self._patches_lock = Lock(), Lock()

    def base(self, name: str) -> tuple[Base, Engine]:
        """A base and its engine. Raises BadInputError, NotFoundError or UnavailableError."""
        with self._bases_lock:
            if name not in self._bases:
                base = self._load(name)
                self._bases[name] = base, self._make_engine(base)
            return self._bases[name]

    def _load(self, name: str) -> Base:
        if name not in self._loaded:
            below = None if packaged(name) == name else self._load(packaged(name))
            self._loaded[name] = load_base(name, self._versions, below)
        return self._loaded[name]

    def engines(self) -> tuple[Engine, ...]:
        """The engines of all bases loaded."""
        with self._bases_lock:
            return tuple(engine for _, engine in self._bases.values())

    def patch(self, rung: RungRef) -> Patch | None:
        """The rung's patch, checked and ready to run; None for a rung without one.

        Raises NotFoundError or PatchMismatchError. Others are not kept waiting while it is read.
        """
        if rung.patch_file is None:
            return None
        key = (rung.patch_file, rung.patch_id, rung.base)
        with self._patches_lock:
            patch = self._patches.get(key)
            if patch is not None:
                self._patches.move_to_end(key)
                return patch
        base, engine = self.base(rung.base)
        patch = _load(rung, base)
        engine.prepare(patch)
        with self._patches_lock:
            patch = self._patches.setdefault(key, patch)  # another thread may have been as fast
            self._patches.move_to_end(key)
            total = sum(_bytes(each) for each in self._patches.values())
            while total > self._limit and len(self._patches) > 1:
                total -= _bytes(self._patches.popitem(last=False)[1])
        return patch

    def __len__(self) -> int:
        return len(self._patches)


def _load(rung: RungRef, base: Base) -> Patch:
    path = Path(str(rung.patch_file))
    patch = load_patch(path, base)
    if len(patch.metadata.labels) != rung.labels:
        raise PatchMismatchError(
            f"The patch {path.name} answers {len(patch.metadata.labels)} classes; task '{rung.task}' has {rung.labels}."
        )
    return patch


def _bytes(patch: Patch) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in patch.tensors.values())
