"""What every rung said about every calibration input: the table that cascades are searched and certified on.

It is measured once and kept as a safetensors file. A plan for other costs needs the table, no network and no new label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ...policies.cascade import Basis, RungId
from ...policies.errors import BadInputError, NotFoundError, StateError
from ...policies.snapshot import Frozen
from ..durable import write_durably
from .features import FEATURES

FORMAT = 1
METADATA_KEY = "patchd"


class TableMetadata(Frozen):
    """The header of a table's file."""

    format: int = FORMAT
    rungs: tuple[RungId, ...] = Field(min_length=1)
    features: tuple[str, ...] = FEATURES


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """`n` inputs by `m` rungs. Raises ValueError when the shapes do not belong together."""

    rungs: tuple[RungId, ...]
    answers: NDArray[np.int32]  # [n, m], class index
    features: NDArray[np.float32]  # [n, m, len(FEATURES)]
    labels: NDArray[np.int32] | None = None  # [n], class index

    def __post_init__(self) -> None:
        n, m = len(self.answers), len(self.rungs)
        if self.answers.shape != (n, m) or self.features.shape != (n, m, len(FEATURES)):
            raise ValueError(
                f"answers {list(self.answers.shape)} and features {list(self.features.shape)} do not fit {m} rungs"
            )
        if self.labels is not None and self.labels.shape != (n,):
            raise ValueError(f"{n} inputs but labels of shape {list(self.labels.shape)}")
        if len(set(self.rungs)) != m:
            raise ValueError("a rung stands in the table twice")

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def basis(self) -> Basis:
        """What a loss is: by labels where there are some, else by agreement with the reference."""
        return Basis.AGREEMENT if self.labels is None else Basis.LABELS

    def index(self, rung: RungId) -> int:
        """The column of `rung`. Raises BadInputError when the table has none."""
        try:
            return self.rungs.index(rung)
        except ValueError:
            known = ", ".join(map(str, self.rungs))
            raise BadInputError(f"The calibration table has no column of {rung}; it has {known}.") from None

    def rows(self, chosen: NDArray[np.intp]) -> ScoreTable:
        """The table of the inputs at these indices, in this order."""
        labels = None if self.labels is None else self.labels[chosen]
        return replace(self, answers=self.answers[chosen], features=self.features[chosen], labels=labels)

    def only(self, rungs: Sequence[RungId]) -> ScoreTable:
        """The table without the columns of rungs that are not among `rungs`."""
        kept = [column for column, rung in enumerate(self.rungs) if rung in rungs]
        columns = tuple(self.rungs[column] for column in kept)
        return replace(self, rungs=columns, answers=self.answers[:, kept], features=self.features[:, kept])

    def append(self, more: ScoreTable) -> ScoreTable:
        """This table with the inputs of `more` after its own.

        Raises BadInputError when the rungs differ or only one of the two has labels.
        """
        if self.rungs != more.rungs or self.basis is not more.basis:
            raise BadInputError(
                "The calibration tables do not belong together: their rungs differ, or only one of them has labels.",
                hint="Measure all rungs on all inputs again.",
            )
        labels = None
        if self.labels is not None and more.labels is not None:
            labels = np.concatenate((self.labels, more.labels))
        answers, features = (self.answers, more.answers), (self.features, more.features)
        return replace(self, answers=np.concatenate(answers), features=np.concatenate(features), labels=labels)

    def split(self, certify: int, seed: int = 0) -> tuple[ScoreTable, ScoreTable]:
        """A part to search on and one of `certify` inputs, apart by construction: a seeded permutation, cut once."""
        order = np.random.default_rng(seed).permutation(len(self))
        cut = len(self) - certify
        return self.rows(order[:cut]), self.rows(order[cut:])

    def losses(self, reference: RungId) -> NDArray[np.int8]:
        """What each rung loses on each input against `reference`, [n, m]; the values are those of `losses_of`."""
        return np.stack([self.losses_of(column, reference) for column in self.answers.T], axis=1)

    def losses_of(self, answers: NDArray[np.int32], reference: RungId) -> NDArray[np.int8]:
        """What answers [n] lose against the reference's, [n].

        With labels 1 for a right answer lost, -1 for one won, else 0; without labels 1 for an answer unlike the
        reference's. Raises BadInputError when the table has no such rung.
        """
        wanted = self.answers[:, self.index(reference)]
        if self.labels is None:
            return _same(answers, wanted) ^ 1
        return _same(wanted, self.labels) - _same(answers, self.labels)

    def disagreements(self, reference: RungId) -> NDArray[np.bool_]:
        """Where each rung's answer is unlike the reference's, [n, m]."""
        unlike: NDArray[np.bool_] = self.answers != self.answers[:, [self.index(reference)]]
        return unlike


def _same(one: NDArray[np.int32], other: NDArray[np.int32]) -> NDArray[np.int8]:
    same: NDArray[np.bool_] = one == other
    return same.astype(np.int8)


def save_table(table: ScoreTable, path: Path) -> None:
    """Write durably; a crash leaves the old file or the new one. Raises StateError when it cannot be written."""
    tensors = {"answers": np.ascontiguousarray(table.answers), "features": np.ascontiguousarray(table.features)}
    if table.labels is not None:
        tensors["labels"] = np.ascontiguousarray(table.labels)
    write_durably(path, save(tensors, {METADATA_KEY: TableMetadata(rungs=table.rungs).model_dump_json()}))


def load_table(path: Path) -> ScoreTable:
    """Read a table.

    Raises NotFoundError when there is no such file, StateError when it is damaged or another patchd's.
    """
    if not path.is_file():
        raise NotFoundError(f"There is no calibration table {path}.")
    try:
        with safe_open(path, "np") as file:
            metadata = TableMetadata.model_validate_json((file.metadata() or {})[METADATA_KEY])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if metadata.format != FORMAT or metadata.features != FEATURES:
            raise ValueError("it was made by another version of patchd")
        table = ScoreTable(metadata.rungs, tensors["answers"], tensors["features"], tensors.get("labels"))
        _check_types(table)
    except (SafetensorError, ValidationError, KeyError, ValueError, OSError) as error:
        why = str(error) if type(error) is ValueError else type(error).__name__
        raise StateError(
            f"The calibration table {path} cannot be used: {why}.", hint="Delete the file and calibrate again."
        ) from error
    return table


def _check_types(table: ScoreTable) -> None:
    integers = (table.answers,) if table.labels is None else (table.answers, table.labels)
    if any(array.dtype != np.int32 for array in integers) or table.features.dtype != np.float32:
        raise ValueError("its numbers are of the wrong type")
