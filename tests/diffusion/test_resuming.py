"""Training that is stopped, or loses power, goes on to the same bytes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forebear.config import plain, to_yaml
from forebear.diffusion import training
from forebear.diffusion.checkpoint import list_checkpoints
from forebear.diffusion.training import TrainConfig, train
from forebear.errors import ConfigError
from forebear.run import Run

Configure = Callable[..., TrainConfig]
Files = Callable[[Run], dict[str, bytes]]

STOPPED = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
from forebear.config import parse, read_yaml
from forebear.diffusion import training
from forebear.run import Run

if sys.argv[3] == "slow":
    step = training._Trainer._step
    def slowly(self, *arguments):
        Path(sys.argv[2], "step").write_text(str(self.state.step))
        import time; time.sleep(0.3)
        return step(self, *arguments)
    training._Trainer._step = slowly
config = parse(training.TrainConfig, read_yaml(Path(sys.argv[1])), "test")
sys.exit(0 if training.train(Run(Path(sys.argv[2], "run")), config) else 5)
"""


def test_a_terminated_training_resumes_bit_for_bit(
    tmp_path: Path, trained: Run, text_config: TrainConfig, run_files: Files
) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(to_yaml(plain(text_config)))
    command = [sys.executable, "-c", STOPPED, str(path), str(tmp_path)]
    process = subprocess.Popen([*command, "slow"], env=os.environ, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        # In the middle of the second epoch: neither at a checkpoint nor at the start of an epoch.
        if (tmp_path / "step").is_file() and (tmp_path / "step").read_text() == "4":
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.05)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 5, errors
    run = Run(tmp_path / "run")
    assert [c.step for c in list_checkpoints(run)] == [3]
    assert not run.model_folder.exists()
    assert train(run, text_config)
    assert run_files(run) == run_files(trained)


def test_a_lost_power_costs_the_steps_since_the_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train_config: Configure, run_files: Files
) -> None:
    settings = train_config("class", save_state_every=4)
    whole, broken = Run(tmp_path / "whole"), Run(tmp_path / "broken")
    assert train(whole, settings)
    real = training._Trainer._step

    def failing(self: Any, plan: Any, place: int, total: int) -> float:
        if self.state.step == 10:  # after the checkpoint of step 9 was written, before its state was
            raise KeyboardInterrupt
        return real(self, plan, place, total)

    monkeypatch.setattr(training._Trainer, "_step", failing)
    with pytest.raises(KeyboardInterrupt):
        train(broken, settings)
    monkeypatch.setattr(training._Trainer, "_step", real)
    assert train(broken, settings)
    assert run_files(broken) == run_files(whole)
    before = run_files(whole)
    assert train(whole, settings)  # a finished run is left as it is
    assert run_files(whole) == before


def test_training_works_outside_the_main_thread(tmp_path: Path, train_config: Configure) -> None:
    done: list[bool] = []
    settings = train_config(epochs=1, checkpoint_epochs=())
    thread = threading.Thread(target=lambda: done.append(train(Run(tmp_path), settings)))
    thread.start()
    thread.join()
    assert done == [True]


def test_signal_handlers_are_put_back(tmp_path: Path, train_config: Configure) -> None:
    before = (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    assert train(Run(tmp_path), train_config(epochs=1, checkpoint_epochs=()))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_other_settings_in_the_same_run_are_refused(trained: Run, train_config: Configure, run_files: Files) -> None:
    before = run_files(trained)
    with pytest.raises(ConfigError, match=r"training: epochs: 4 -> 5.*use a new run folder"):
        train(trained, train_config("text", flip=True, caption_dropout=0.3, epochs=5))
    assert run_files(trained) == before
