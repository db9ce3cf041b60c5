"""The checkpoints in a run's folder: which are whole, which were cut off, and how one takes its place at a stroke.

A checkpoint is written beside its place, listed with the sizes of its files, flushed to the disk, and renamed. The
standard library only: a run is opened before anything heavy is imported.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path

from utils.core.json_files import NotJsonError, load_json, parse_json

MANIFEST = "complete.json"
STATE = "trainer_state.json"
ONLY_EVALUATED = ".only_for_evaluation"
"""Marks a checkpoint that was saved only so that an evaluation could be resumed, and its step kept if it is best."""
RUN_COPY = "run_copy.yaml"
"""The run's configuration in a checkpoint; as run.yaml it would make the checkpoint pass for a run."""

_NAME = re.compile(r"checkpoint-(\d+)")
_LEFTOVER = re.compile(r"\.(checkpoint-\d+)\.(partial|replaced|deleted)")
_ZIPPED = (".pt", ".pth", ".bin")
_TRAINING_STATE = {
    "the optimizer's state": ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*"),
    "the learning rate's schedule": ("scheduler.pt", "global_step*"),
    "the random numbers' state": ("rng_state.pth", "rng_state_*.pth"),
}
"""What training goes on from besides the weights, and the files that hold it: the Trainer's, FSDP's, DeepSpeed's."""


def list_checkpoints(run: Path) -> list[Path]:
    """List a run's checkpoints, whole or not, oldest first."""
    found = [each for each in run.glob("checkpoint-*") if _NAME.fullmatch(each.name) and each.is_dir()]
    return sorted(found, key=find_step)


def find_checkpoints(run: Path) -> list[Path]:
    """List the whole checkpoints of a run, oldest first."""
    return [each for each in list_checkpoints(run) if find_flaw(each) is None]


def find_step(checkpoint: Path) -> int:
    """Read the step out of a checkpoint's name."""
    return int(checkpoint.name.rpartition("-")[2])


def find_flaw(checkpoint: Path) -> str | None:
    """Say what is wrong with a checkpoint's files; None: it is whole.

    Files are compared with the list that was written last. A checkpoint without such a list, of an older version or
    another tool, is judged by what its files say of their own length.
    """
    listed = checkpoint / MANIFEST
    try:
        if not listed.is_file():
            return _find_flaw_inside(checkpoint)
        sizes = load_json(listed)["files"]
        for name, size in sizes.items():
            if not (checkpoint / name).is_file():
                return f"{name} is missing"
            if (found := (checkpoint / name).stat().st_size) != size:
                return f"{name} has {found} of {size} bytes"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is cut off"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    return None


def find_lost_state(checkpoint: Path) -> str | None:
    """Say what training cannot go on from; None: all is there. The weights of such a checkpoint can still be used."""
    lost = [what for what, names in _TRAINING_STATE.items() if not any(any(checkpoint.glob(name)) for name in names)]
    return f"it lacks {', '.join(lost)}, so training would not go on but begin again with its weights" if lost else None


def measure_checkpoint(checkpoint: Path) -> int:
    """Count the bytes of a checkpoint's files."""
    return sum(each.stat().st_size for each in _list_files(checkpoint))


def find_partial(run: Path, step: int) -> Path:
    """Name the folder in which a checkpoint is written before it takes its place."""
    return run / f".checkpoint-{step}.partial"


def publish_checkpoint(partial: Path, target: Path) -> None:
    """List the files, flush them to the disk, and put the folder in its place; an older one there goes."""
    files = {each.relative_to(partial).as_posix(): each.stat().st_size for each in sorted(_list_files(partial))}
    text = json.dumps({"version": 1, "step": find_step(target), "files": files}, indent=1)
    (partial / MANIFEST).write_text(text, encoding="utf-8")
    flush_folder(partial)
    replaced = target.with_name(f".{target.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if target.exists():
        target.rename(replaced)
    partial.rename(target)
    _flush(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def flush_folder(folder: Path) -> None:
    """See to it that a folder's files are on the disk: a power cut leaves none that has its length and no content.

    Weights get their neighbours' mode: safetensors makes them for their owner alone, whatever the umask.
    """
    mode = folder.stat().st_mode & 0o666
    for each in _list_files(folder):
        each.chmod(mode)
        _flush(each)
    for each in (*(path for path in folder.rglob("*") if path.is_dir()), folder):
        _flush(each)


def rotate_checkpoints(run: Path, limit: int | None, keep: Collection[str | Path | None]) -> None:
    """Delete the oldest checkpoints beyond a limit; the newest whole one and those to be kept stay.

    Called when a new checkpoint is in its place. One that is cut off does not count, and goes first. One that was
    saved only for an evaluation goes in any case.

    Args:
        run: The run's folder.
        limit: Checkpoints to keep; None or 0: all.
        keep: Checkpoints that stay, such as the best one, by path or name; None among them is nothing.
    """
    whole = find_checkpoints(run)
    safe = {Path(each).name for each in keep if each is not None} | {each.name for each in whole[-1:]}
    for each in [each for each in whole if each.name not in safe and (each / ONLY_EVALUATED).exists()]:
        delete_checkpoint(each)
        whole.remove(each)
    if not limit or limit < 0:
        return
    broken = [each for each in list_checkpoints(run) if each not in whole and each.name not in safe]
    spare = [each for each in whole if each.name not in safe]
    excess = max(len(whole) - max(limit, len(safe & {each.name for each in whole})), 0)
    for each in (*broken, *spare[:excess]):
        delete_checkpoint(each)


def delete_checkpoint(checkpoint: Path) -> None:
    """Delete a folder so that a kill in the midst of it leaves no checkpoint that lacks files."""
    doomed = checkpoint.with_name(f".{checkpoint.name}.deleted")
    shutil.rmtree(doomed, ignore_errors=True)
    checkpoint.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def clear_leftovers(run: Path) -> list[str]:
    """Clear away what a killed process left half-written or half-deleted.

    A checkpoint that was about to be replaced takes its place again where the new one never did.

    Returns:
        Names of checkpoints that were cut off while they were written.
    """
    cut_off = []
    for each in sorted(run.glob(".checkpoint-*")):
        found = _LEFTOVER.fullmatch(each.name)
        if found is None:
            continue
        target = run / found[1]
        if found[2] == "replaced" and not target.exists():
            each.rename(target)
            continue
        if found[2] == "partial":
            cut_off.append(found[1])
        shutil.rmtree(each, ignore_errors=True)
    return cut_off


def _list_files(folder: Path) -> Iterator[Path]:
    return (each for each in folder.rglob("*") if each.is_file() and each.name != MANIFEST)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _find_flaw_inside(checkpoint: Path) -> str | None:
    if not (checkpoint / STATE).is_file():
        return f"{STATE} is missing"
    for each in sorted(_list_files(checkpoint)):
        name = each.relative_to(checkpoint).as_posix()
        if each.suffix == ".json" and not _is_json(each):
            return f"{name} is cut off"
        if each.suffix == ".safetensors" and not _is_whole_safetensors(each):
            return f"{name} is cut off"
        if each.suffix in _ZIPPED and not zipfile.is_zipfile(each):
            return f"{name} is cut off"
    return None


def _is_json(path: Path) -> bool:
    try:
        load_json(path)
    except NotJsonError:
        return False
    return True


def _is_whole_safetensors(path: Path) -> bool:
    """Compare a file's length with what its header says: eight bytes, as many bytes of JSON, then the tensors."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8 or (length := struct.unpack("<Q", start)[0]) > size - 8:
            return False
        try:
            header = parse_json(file.read(length))
            ends = [each["data_offsets"][1] for name, each in header.items() if name != "__metadata__"]
            return bool(size == 8 + length + max(ends, default=0))
        except (NotJsonError, KeyError, TypeError, AttributeError, IndexError):
            return False
