"""An environment that lies in the folder of whoever starts the run goes to Modal with its packages."""

import shutil
from pathlib import Path

import pytest
from helpers import STANDIN
from modal_server import ModalServer

import grpo_kit as kit
from grpo_kit.backends.modal import launch as launching
from grpo_kit.data.samples import Sample, to_lines


@pytest.mark.wide
def test_an_environment_of_yours_trains_on_modal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("GRPO_KIT_IMAGE_PACKAGES", "")  # put back after the test
    monkeypatch.setenv("GRPO_KIT_IMAGE_MODULES", "")
    shutil.copy(Path(__file__).with_name("shop.py"), tmp_path / "my_shop.py")
    asks = [{"role": "user", "content": "Is there tea?"}]
    data = tmp_path / "data" / "processed"
    data.mkdir(parents=True)
    (data / "train.jsonl").write_bytes(to_lines([Sample(f"s{i}", asks, "Yes.") for i in range(4)]))
    settings = {"model_name": "tiny-agent", "data": "data/processed", "max_steps": 1, "max_prompt_length": 900}
    settings |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "num_generations": 4}
    settings |= {"environment": "my_shop:Shop", "image_packages": "tea-house==1.2", "max_completion_length": 64}
    with ModalServer(tmp_path / "server", installed=STANDIN) as server, server.in_this_process():
        monkeypatch.setattr(launching, "_deployed", None)
        kit.upload_data.remote(data)
        run = kit.train.remote(**settings)
        assert run.status["state"] == "complete", run.status
        assert run.completions()["rewards"].iloc[0].keys() == {"offline", "environment"}
        commands = [line for each in server.asked("ImageGetOrCreate") for line in each.image.dockerfile_commands]
        assert any("uv pip install" in line and "tea-house==1.2" in line for line in commands)
