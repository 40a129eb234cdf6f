"""Find out whether this machine is a Jetson, whose TensorRT comes with JetPack for the system's Python."""

import sys
from pathlib import Path

RELEASE_FILE = Path("/etc/nv_tegra_release")
"""File with the release of Jetson Linux in JetPack 6 and 7."""


def tensorrt_remedy() -> str:
    """Return how to install TensorRT on this machine, as the end of a message."""
    in_environment = sys.prefix != sys.base_prefix
    if not RELEASE_FILE.exists():
        other = ", or on a Jetson make the environment with --system-site-packages" if in_environment else ""
        return f"pip install 'internvl-edge[gpu]'{other}"
    visible = ", and make the environment with --system-site-packages" if in_environment else ""
    return f"this is a Jetson: install JetPack's own (sudo apt install nvidia-jetpack){visible}"
