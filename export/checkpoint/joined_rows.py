"""Join tensors that another layout stores apart: queries, keys and values of the tower in transformers' own port."""

from collections.abc import Mapping

from internvl_edge.export.checkpoint.files.tensors import JoinedTensor, LazyTensor, MergedTensor, StoredTensor
from internvl_edge.export.models.families import FAMILIES
from internvl_edge.export.models.families.fields import listed
from internvl_edge.runtime.errors import CheckpointError


def with_joined_rows(tensors: Mapping[str, LazyTensor | MergedTensor]) -> dict[str, StoredTensor]:
    """Return `tensors` with the modules that families store joined; nothing is read.

    Raises:
        CheckpointError: tensors to join are missing, or differ in type or shape.
    """
    found: dict[str, StoredTensor] = dict(tensors)
    wrong = []
    for family in FAMILIES:
        for whole, ends in family.joined.items():
            for name in [name for name in tensors if family.owns(name) and f".{ends[0]}." in name]:
                before, _, leaf = name.rpartition(f".{ends[0]}.")
                names = [f"{before}.{end}.{leaf}" for end in ends]
                rows = tuple(tensors[each] for each in names if each in tensors)
                if len(rows) < len(names) or len({(part.dtype, part.shape) for part in rows}) > 1:
                    wrong.append(name)
                    continue
                joined = f"{before}.{whole}.{leaf}"
                found[joined] = JoinedTensor(name=joined, rows=rows)
                for each in names:
                    del found[each]
    if wrong:
        raise CheckpointError(
            f"checkpoint: {listed(wrong)} and the tensors beside it are not of one type and shape, or one is missing; "
            "give a complete checkpoint"
        )
    return found
