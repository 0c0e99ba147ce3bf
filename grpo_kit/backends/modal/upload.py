"""Samples on their way to Modal's volume."""

import hashlib
from pathlib import Path, PurePosixPath

from grpo_kit.backends.modal.client import DATA_VOLUME, modal_in_words, volume
from grpo_kit.backends.upload import Uploaded
from grpo_kit.errors import RunError


def upload(files: dict[str, tuple[Path, int]], name: str | None) -> list[Uploaded]:
    """Puts files on the data volume and reads each back. `files`: where each is and how many samples it holds."""
    folder = PurePosixPath("/") / (name or "")
    done = []
    with modal_in_words():
        with volume(DATA_VOLUME).batch_upload(force=True) as batch:
            for target, (source, _) in files.items():
                batch.put_file(source, str(folder / target))
        for target, (source, samples) in files.items():
            there = b"".join(volume(DATA_VOLUME).read_file(str(folder / target)))
            if hashlib.sha256(there).digest() != hashlib.sha256(source.read_bytes()).digest():
                raise RunError(f"{source} was changed on its way to the volume {DATA_VOLUME}: upload it again")
            done.append(Uploaded(f"{DATA_VOLUME}:{folder / target}", len(there), samples))
    return done
