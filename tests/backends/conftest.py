# a plugin for quick reruns: the run made before stands in for the fixture's
import pytest, shutil
@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    import grpo_kit as kit
    return kit.Run(shutil.copytree("/tmp/gg/grpo_20", tmp_path_factory.mktemp("runs") / "grpo_20"))
