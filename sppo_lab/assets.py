"""Where the embedded model, problems and recorded studies lie: in an installed wheel, or in the checkout."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def data_folder() -> Path:
    """The folder with ``chain_sum/``, ``models/`` and ``studies/``."""
    installed = _PACKAGE / "data"
    return installed if installed.is_dir() else _PACKAGE.parent / "data"


def embedded_models() -> dict[str, Path]:
    """Name to directory of each embedded model."""
    return {path.name: path for path in sorted((data_folder() / "models").iterdir()) if path.is_dir()}


def recorded(name: str) -> Path:
    """The directory of a recorded study or lens; data/studies/README.md lists them."""
    return data_folder() / "studies" / name
