"""What is written is whole, and a target that can't be written to is told before there is anything to write."""

import os
from pathlib import Path

import pytest

from grpo_kit.errors import ConfigError, RunError
from grpo_kit.judges.labels import LabelFile
from grpo_kit.utils.files import check_folder, check_new_folder

SEALED = Path("/proc/self/task")  # even root can't


def test_a_folder_that_can_not_be_written_to_is_told_before(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for wrong in (file, file / "inside", file / "deep" / "inside"):
        for check in (check_folder, LabelFile):
            with pytest.raises(ConfigError, match=f"{file} is a file. Name a folder"):
                check(wrong / "labels.csv" if check is LabelFile else wrong)
    with pytest.raises(ConfigError, match="can't be written to: File name too long"):
        check_folder(tmp_path / ("x" * 300))
    if not os.access(SEALED, os.W_OK):
        with pytest.raises(ConfigError, match=r"/proc/self/task can't be written to\. Name another folder"):
            check_folder(SEALED / "new" / "folder")
    with pytest.raises(ConfigError, match=r"\. can't be read"):
        LabelFile(".").read()
    with pytest.raises(RunError, match="exists already"):
        check_new_folder(tmp_path)
    check_folder(tmp_path)
    check_new_folder(tmp_path / "new" / "folder")
    assert [*tmp_path.iterdir()] == [file], "to look makes nothing"
