"""The workflow's own files: beside the package in a checkout, inside it where it is installed."""

import shutil
from pathlib import Path

from looseleaf.errors import LooseleafError

PACKAGE = Path(__file__).parent
FOLDERS = ("config", "envs", "profiles", "rules", "scripts")
# the first is read from the package, the second is a checkout's link to the package itself
LEFT_OUT = ("schemas", "looseleaf", "__pycache__")


def workflow_folder() -> Path:
    """The folder of the Snakefile and what belongs to it."""
    installed = PACKAGE / "workflow"
    return installed if installed.is_dir() else PACKAGE.parent


def schemas() -> Path:
    """The folder of the configuration's JSON schemas."""
    return workflow_folder() / "config/schemas"


def lay_out(folder: Path) -> list[str]:
    """Copy the workflow into a folder, so that `snakemake` runs in it; the names it then holds.

    A profile is linked from where `snakemake --profile NAME` looks for it. Raises
    `LooseleafError` if the folder holds one of these names, and then leaves it as it is.
    """
    source = workflow_folder()
    profiles = [path.name for path in (source / "profiles").iterdir() if path.name != "default"]
    names = ["Snakefile", *FOLDERS, *sorted(profiles)]
    for name in names:
        if (folder / name).exists() or (folder / name).is_symlink():
            raise LooseleafError(f"{folder / name} is there already; name a folder without it")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _copy(source, folder, profiles)
    except BaseException:
        # half of it would stop the next try
        for name in names:
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / "Snakefile").unlink(missing_ok=True)
        raise
    return names


def _copy(source: Path, folder: Path, profiles: list[str]) -> None:
    shutil.copy(source / "Snakefile", folder)
    for name in FOLDERS:
        # shutil.copytree would hide a full disk in an error of its own
        for path in (source / name).rglob("*"):
            place = path.relative_to(source)
            if path.is_file() and not set(LEFT_OUT) & set(place.parts):
                (folder / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, folder / place)
    for name in profiles:
        (folder / name).mkdir()
        (folder / name / "config.yaml").symlink_to(f"../profiles/{name}/config.yaml")
