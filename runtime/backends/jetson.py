"""Whether this machine is a Jetson: its TensorRT is JetPack's, for the system's Python, and no package of an index."""

import sys
from pathlib import Path

RELEASE_FILE = Path("/etc/nv_tegra_release")
"""What Jetson Linux says of itself, JetPack 6 and 7 alike."""


def tensorrt_remedy() -> str:
    """Return how TensorRT comes to be importable here, as the end of a message."""
    in_environment = sys.prefix != sys.base_prefix
    if not RELEASE_FILE.exists():
        other = ", or on a Jetson make the environment with --system-site-packages" if in_environment else ""
        return f"pip install 'internvl-edge[gpu]'{other}"
    visible = ", and make the environment with --system-site-packages" if in_environment else ""
    return f"this is a Jetson: install JetPack's own (sudo apt install nvidia-jetpack){visible}"
