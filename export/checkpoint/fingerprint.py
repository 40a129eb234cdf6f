"""Compute a digest that identifies a checkpoint, from its config and a few bytes of each tensor."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict

from internvl_edge.export.checkpoint.files.tensors import JoinedTensor, MergedTensor, StoredTensor
from internvl_edge.export.models.config import ModelConfig
from internvl_edge.runtime.inputs.pictures.preprocess import Preprocessing

_FINGERPRINT_BYTES = 4096


def fingerprint(tensors: Sequence[StoredTensor], config: ModelConfig) -> str:
    """Return a digest of names, types, shapes and first bytes of all tensors, and of the config.

    The picture size is left out: it is compared separately, so that the error can name it. The factors of adapters are
    included, and so is preprocessing that differs from the reference's.
    """
    digest, pictures = hashlib.sha256(), config.pictures
    said = asdict(config.vision).items()
    vision = {name: value for name, value in said if name != "image_size" and value is not None}
    others = [part for part in config.parts if part is not config.vision]
    digest.update(repr((vision, others)).encode())
    if pictures != Preprocessing(image_size=pictures.image_size):
        digest.update(repr(pictures).encode())
    for tensor in sorted(tensors, key=lambda tensor: tensor.name):
        digest.update(f"{tensor.name} {tensor.dtype} {tensor.shape}".encode())
        for row in tensor.rows if isinstance(tensor, JoinedTensor) else [tensor]:
            if isinstance(row, MergedTensor):
                digest.update(f"{row.scale}".encode())
        for part in tensor.parts:
            with part.file.open("rb") as file:
                file.seek(part.offset)
                digest.update(file.read(min(part.nbytes, _FINGERPRINT_BYTES)))
    return digest.hexdigest()
