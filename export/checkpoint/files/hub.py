"""Download a checkpoint from the Hugging Face Hub."""

from pathlib import Path

from internvl_edge.runtime.errors import CheckpointError, first_line

_WANTED = ["*.json", "*.safetensors", "*.bin", "*.model", "*.jinja", "merges.txt"]


def from_hub(name: str, revision: str | None) -> Path:
    """Download the checkpoint with Hub id `name`, and return its folder.

    Raises:
        CheckpointError: the name is no Hub id, huggingface_hub is not installed, or the download fails.
    """
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise CheckpointError(f"{name}: no such folder or file; give a checkpoint folder, a weight file or a Hub id")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise CheckpointError(
            f"{name}: no such folder, and huggingface_hub is not installed; pip install huggingface_hub"
        ) from error
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_WANTED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"{name}: the Hub does not give it ({first_line(error)}); check the name and the network"
        ) from error
