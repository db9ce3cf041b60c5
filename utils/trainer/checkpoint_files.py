"""The checkpoints in a run's folder: which are complete, which may be deleted, and how a new one replaces atomically.

A checkpoint is written to a temporary folder, listed with the sizes of its files, flushed to disk, and renamed. Only
the standard library is used, as a run is opened before heavy imports.
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

from utils.core.json_files import NotJsonError, is_json, load_json, parse_json

MANIFEST = "complete.json"
STATE = "trainer_state.json"
RUN_COPY = "run_copy.yaml"
"""The run's configuration in a checkpoint; named run.yaml it would make the checkpoint look like a run."""

_ONLY_EVALUATED = ".only_for_evaluation"
_NAME = re.compile(r"checkpoint-(\d+)")
_LEFTOVER = re.compile(r"\.(checkpoint-\d+)\.(partial|replaced|deleted)")
_ZIPPED = (".pt", ".pth", ".bin")
_TRAINING_STATE = {
    "the optimizer's state": ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*"),
    "the learning rate's schedule": ("scheduler.pt", "global_step*"),
    "the random numbers' state": ("rng_state.pth", "rng_state_*.pth"),
}
"""State that resuming needs besides the weights, and the files that hold it: the Trainer's, FSDP's, DeepSpeed's."""


def list_checkpoints(run: Path) -> list[Path]:
    """List a run's checkpoints, complete or not, oldest first."""
    found = [each for each in run.glob("checkpoint-*") if _NAME.fullmatch(each.name) and each.is_dir()]
    return sorted(found, key=find_step)


def find_checkpoints(run: Path) -> list[Path]:
    """List the complete checkpoints of a run, oldest first."""
    return [each for each in list_checkpoints(run) if find_flaw(each) is None]


def find_checkpoint(run: Path, step: int) -> Path | None:
    """Find the complete checkpoint of a step."""
    path = run / f"checkpoint-{step}"
    return path if path.is_dir() and find_flaw(path) is None else None


def find_step(checkpoint: Path) -> int:
    """Read the step from a checkpoint's name."""
    return int(checkpoint.name.rpartition("-")[2])


def find_flaw(checkpoint: Path) -> str | None:
    """Describe what is wrong with a checkpoint's files; None: it is complete.

    Files are compared with the list that was written last. A checkpoint without one, from an older version or another
    tool, is judged by the lengths that its files record.
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


def _find_flaw_inside(checkpoint: Path) -> str | None:
    if not (checkpoint / STATE).is_file():
        return f"{STATE} is missing"
    for each in sorted(_list_files(checkpoint)):
        if (
            (each.suffix == ".json" and not is_json(each.read_bytes()))
            or (each.suffix == ".safetensors" and not _is_whole_safetensors(each))
            or (each.suffix in _ZIPPED and not zipfile.is_zipfile(each))
        ):
            return f"{each.relative_to(checkpoint).as_posix()} is cut off"
    return None


def _is_whole_safetensors(path: Path) -> bool:
    """Return whether a file has the length in its header: 8 bytes of length, that many bytes of JSON, the tensors."""
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


def find_lost_state(checkpoint: Path) -> str | None:
    """Describe missing training state; None: nothing is missing. The weights of such a checkpoint can still be used."""
    lost = [what for what, names in _TRAINING_STATE.items() if not any(any(checkpoint.glob(name)) for name in names)]
    return (
        f"it lacks {', '.join(lost)}, so training would start over from its weights instead of continuing"
        if lost
        else None
    )


def measure_checkpoint(checkpoint: Path) -> int:
    """Count the bytes of a checkpoint's files."""
    return sum(each.stat().st_size for each in _list_files(checkpoint))


def find_partial(run: Path, step: int) -> Path:
    """Return the temporary folder in which a checkpoint is written."""
    return run / f".checkpoint-{step}.partial"


def publish_checkpoint(partial: Path, target: Path) -> None:
    """List the files, flush them to disk, and rename the folder to its target, replacing an older one."""
    files = {each.relative_to(partial).as_posix(): each.stat().st_size for each in sorted(_list_files(partial))}
    text = json.dumps({"version": 1, "step": find_step(target), "files": files}, indent=1)
    (partial / MANIFEST).write_text(text, encoding="utf-8")
    flush_folder(partial)
    replaced = target.with_name(f".{target.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if target.exists():
        target.rename(replaced)  # after a kill here, clear_leftovers restores it
    partial.rename(target)
    _flush(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def flush_folder(folder: Path) -> None:
    """Flush a folder's files to disk, so that a power cut cannot leave files with a length but no content.

    Weights get the mode of the other files: safetensors creates them readable by the owner only, whatever the umask.
    """
    mode = folder.stat().st_mode & 0o666
    for each in _list_files(folder):
        each.chmod(mode)
        _flush(each)
    for each in (*(path for path in folder.rglob("*") if path.is_dir()), folder):
        _flush(each)


def _list_files(folder: Path) -> Iterator[Path]:
    return (each for each in folder.rglob("*") if each.is_file() and each.name != MANIFEST)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def mark_checkpoint(run: Path, step: int, only_for_evaluation: bool) -> None:
    """Mark whether a checkpoint was saved only to make an evaluation resumable and its best step available."""
    marker = run / f"checkpoint-{step}" / _ONLY_EVALUATED
    if not marker.parent.is_dir():
        return  # the disk was full, and training continues
    if only_for_evaluation:
        marker.touch()
    else:
        marker.unlink(missing_ok=True)


def rotate_checkpoints(run: Path, limit: int | None, keep: Collection[str | Path | None]) -> None:
    """Delete the checkpoints no longer needed, after a new one is in place.

    Those saved only for an evaluation are deleted. With a limit, incomplete ones are deleted without counting, then the
    oldest until `limit` are left. The newest complete one is kept, and those in `keep`, by path or name, such as the
    best one; None in `keep` is ignored.
    """
    whole = find_checkpoints(run)
    safe = {Path(each).name for each in keep if each is not None} | {each.name for each in whole[-1:]}
    obsolete = [each for each in whole if each.name not in safe and (each / _ONLY_EVALUATED).exists()]
    if limit and limit > 0:
        left = [each for each in whole if each not in obsolete]
        spare = [each for each in left if each.name not in safe]
        excess = max(len(left) - max(limit, len(left) - len(spare)), 0)
        broken = [each for each in list_checkpoints(run) if each not in whole and each.name not in safe]
        obsolete += [*broken, *spare[:excess]]
    for each in obsolete:
        delete_checkpoint(each)


def delete_checkpoint(checkpoint: Path) -> None:
    """Delete a checkpoint so that a kill midway leaves no incomplete one."""
    renamed = checkpoint.with_name(f".{checkpoint.name}.deleted")
    shutil.rmtree(renamed, ignore_errors=True)
    checkpoint.rename(renamed)
    shutil.rmtree(renamed, ignore_errors=True)


def clear_leftovers(run: Path) -> list[str]:
    """Remove what a killed process left partially written or deleted.

    A checkpoint that was being replaced is restored if the new one is missing.

    Returns:
        Names of checkpoints whose writing was cut off.
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


def set_aside_later(run: Path, step: int, target: Path) -> list[Path]:
    """Move the checkpoints after a step into a folder: a run resumed from that step writes them anew.

    Returns:
        The original paths of the moved checkpoints; without any, the folder is not created.
    """
    later = [each for each in list_checkpoints(run) if find_step(each) > step]
    for each in later:
        target.mkdir(exist_ok=True)
        each.rename(target / each.name)
    return later


def link_best(run: Path, checkpoint: Path | None) -> None:
    """Link best_model to the best checkpoint; None: there is none."""
    link, beside = run / "best_model", run / ".best_model"
    if checkpoint is None or not checkpoint.is_dir():
        if link.is_symlink():
            link.unlink()
        return
    beside.unlink(missing_ok=True)
    beside.symlink_to(checkpoint.name)
    beside.replace(link)
