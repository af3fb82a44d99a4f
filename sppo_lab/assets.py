"""Where the embedded model and problems lie: inside an installed wheel, or in the checkout's data folder."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def data_folder() -> Path:
    """The folder with ``chain_sum/`` and ``models/``."""
    installed = _PACKAGE / "data"
    return installed if installed.is_dir() else _PACKAGE.parent / "data"


def embedded_models() -> dict[str, Path]:
    """Name to directory of each embedded model."""
    return {path.name: path for path in sorted((data_folder() / "models").iterdir()) if path.is_dir()}
