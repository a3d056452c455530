"""Writing a bundle: whole or not at all, and verified before it takes its place."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from popexd.bundle.reading import described, fingerprint, inside, listed_files, load
from popexd.bundle.values import Bundle
from popexd.errors import BundleError
from popexd.folders import made


def write(folder: Path, facts: Mapping[str, Any], files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle whole or not at all: into a folder beside `folder`, verified there, then renamed into place.

    `facts` is bundle.json without its fingerprint; `files` maps the relative names it lists to their bytes. A bundle
    already at `folder` is replaced. Raises BundleError when the bundle would not verify or something else is there.
    """
    folder = Path(folder)
    check_place(folder)
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    replaced = partial.with_suffix(".replaced")
    try:
        with made(folder.absolute().parent):
            try:
                _fill(partial, facts, files)
                if folder.exists():
                    folder.rename(replaced)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise BundleError(f"{folder}: cannot be written: {error.strerror or error}") from error
    finally:
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    return load(folder)


def check_place(folder: Path) -> None:
    """Raise BundleError where something lies that is no bundle, which `write` replaces in no case."""
    if folder.exists() and not (folder / "bundle.json").is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise BundleError(f"{folder}: in the way and not a bundle, expected a new or empty folder or an older bundle")


def _fill(folder: Path, facts: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    folder.mkdir()
    for name, content in files.items():
        path = inside(folder, name, "files")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    complete = dict(facts)
    complete["fingerprint"] = "0" * 64
    described(folder, complete)
    complete["fingerprint"] = fingerprint(complete, ((name, folder / name) for name in listed_files(complete)))
    (folder / "bundle.json").write_text(json.dumps(complete, indent=1) + "\n", encoding="utf-8")
    _ = load(folder).validation
