"""A reader's Drive, which is a folder like any other once it is mounted."""

from pathlib import Path


def mount(mountpoint: str, **_: object) -> None:
    (Path(mountpoint) / "MyDrive").mkdir(parents=True, exist_ok=True)
