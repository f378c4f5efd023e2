"""Whole runs, seconds long: what they leave behind, and what stopping, damage and bad numbers do to them."""

import csv
import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from iris_wm.agent import Agent
from iris_wm.checkpoint.errors import ForeignRun, NumericFailure, RunInUse, Stopped
from iris_wm.checkpoint.folder import load_checkpoint
from iris_wm.checkpoint.run_folder import RunFolder
from iris_wm.checkpoint.verify import list_checkpoints, verify_checkpoint
from iris_wm.config import apply_overrides, build_config
from iris_wm.policy.learner import PolicyLearner
from iris_wm.runs.config import RunConfig
from iris_wm.runs.progress import STATE_KEY
from iris_wm.spaces import ActionSpace
from iris_wm.strict_yaml import parse_yaml, read_yaml
from iris_wm.tokenizer.learner import TokenizerLearner
from iris_wm.training import module, saving
from iris_wm.training.train import FitResult, check_machine, fit
from iris_wm.world.learner import WorldLearner

ROOT = Path(__file__).parents[2]
NUM_STEPS = 21  # 6 of epoch 1, 9 of epoch 2 (the last is the evaluation), 6 of epoch 3


@dataclasses.dataclass
class Run:
    path: Path
    result: FitResult


slow = pytest.mark.slow  # what a quick test beside it, or one of tests/reliability, sees too
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def reference(tiny_run, tmp_path_factory) -> Run:
    """A run that nothing disturbed."""
    path = tmp_path_factory.mktemp("runs") / "reference"
    return Run(path, fit(tiny_run(), path, is_quiet=True))


def metrics(path: Path) -> str:
    return (path / "metrics.csv").read_text()


def newest(path: Path) -> Path:
    return list_checkpoints(path)[0]


def flat(tree: Any, name: str = "") -> dict[str, Any]:
    """A tree of dicts and lists as leaves by name."""
    if isinstance(tree, dict):
        return {key: value for k, part in tree.items() for key, value in flat(part, f"{name}/{k}").items()}
    if isinstance(tree, (list, tuple)):
        return {key: value for k, part in enumerate(tree) for key, value in flat(part, f"{name}/{k}").items()}
    return {name: tree}


def assert_same_run(first: Path, second: Path) -> None:
    """Weights, moments, place, collector and replay of the newest checkpoints, and metrics.csv, bit for bit."""
    assert metrics(first) == metrics(second)
    one, two = (load_checkpoint(newest(path)) for path in (first, second))
    leaves = []
    for checkpoint in (one, two):
        # Lightning counts its own epochs and steps anew in every process; nothing reads them.
        training = {k: v for k, v in checkpoint.training.items() if k not in ("epoch", "global_step")}
        training[STATE_KEY] = {k: v for k, v in training[STATE_KEY].items() if k != "seconds"}
        parts = list(checkpoint.replay_parts())
        replay = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        leaves.append(flat({"agent": checkpoint.agent, "training": training, "replay": replay}))
    assert leaves[0].keys() == leaves[1].keys()
    for name, value in leaves[0].items():
        other = leaves[1][name]
        same = torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
        assert same, name
    assert any("exp_avg_sq" in name for name in leaves[0])


def at_step(monkeypatch, when: str, step: int, action) -> None:
    """Do something to the module once, with `step` steps done: "before" the next one, or "after" the last."""
    owner, name = {
        "before": (module.IrisModule, "training_step"),
        "after": (saving.RunKeeper, "on_train_batch_end"),
    }[when]
    original = getattr(owner, name)
    done = []

    def wrapped(self, *arguments):
        iris = self if when == "before" else arguments[1]
        if iris.progress.total_steps == step and not done:
            done.append(True)
            action(iris)
        return original(self, *arguments)

    monkeypatch.setattr(owner, name, wrapped)


def send(number: int):
    """What a user or a scheduler does to the process."""
    return lambda work: signal.raise_signal(number)


# ---- what a run leaves behind ----


def test_a_debug_run_of_a_real_game(tmp_path):
    """The shipped debug config, shortened: Atari, every network, evaluation."""
    overrides = [
        "evaluation.every_epochs=2",
        "evaluation.max_steps=10",
        "training.num_epochs=2",
        "trainer.num_threads=1",
    ]
    config = build_config(RunConfig, apply_overrides(read_yaml(ROOT / "configs" / "debug.yaml"), overrides))
    result = fit(config, tmp_path / "run", is_quiet=True)
    assert result.progress.env_steps == 120
    names = {row["name"] for row in csv.DictReader(metrics(tmp_path / "run").splitlines())}
    assert {"evaluation/return", "tokenizer/loss", "world/loss", "policy/loss"} <= names
    agent = Agent.load(tmp_path / "run")
    assert agent.actions.sizes == (4,)
    assert (tmp_path / "run" / "config.yaml").read_text()


def test_files(reference, tiny_run):
    names = {path.name for path in reference.path.iterdir()}
    assert {"config.yaml", "identity.json", "metrics.csv", "checkpoints", "replay", "tensorboard"} <= names
    for folder in list_checkpoints(reference.path):
        verify_checkpoint(folder)
    assert newest(reference.path).name == f"step-{NUM_STEPS:09d}"
    config = build_config(RunConfig, parse_yaml((reference.path / "config.yaml").read_text()))
    assert config == tiny_run()


def test_metrics_are_in_long_format_against_env_steps(reference):
    rows = list(csv.DictReader(metrics(reference.path).splitlines()))
    assert rows[0].keys() == {"env_steps", "epoch", "name", "value"}
    assert {row["name"].split("/")[0] for row in rows} == {
        "collection", "tokenizer", "world", "policy", "evaluation",
    }  # fmt: skip
    by_name: dict[str, list[tuple[int, int]]] = {}
    for row in rows:
        by_name.setdefault(row["name"], []).append((int(row["epoch"]), int(row["env_steps"])))
        assert torch.isfinite(torch.tensor(float(row["value"])))
    # Means over a phase, one row an epoch; two epochs of collection, 60 steps each.
    assert by_name["tokenizer/loss"] == [(1, 60), (2, 120), (3, 120)]
    assert by_name["policy/policy_loss"] == [(2, 120), (3, 120)]
    assert by_name["evaluation/return"] == [(2, 120)]
    for name in ("tokenizer/codes_used", "tokenizer/perplexity", "world/reward_loss", "world/grad_norm",
                 "policy/imagined_return", "policy/entropy_loss", "collection/return"):  # fmt: skip
        assert name in by_name, name
    steps = [int(row["env_steps"]) for row in rows]
    assert steps == sorted(steps)


def test_tensorboard_holds_the_same_numbers(reference):
    events = EventAccumulator(str(reference.path / "tensorboard"))
    events.Reload()
    rows = list(csv.DictReader(metrics(reference.path).splitlines()))
    expected = [
        (int(row["env_steps"]), float(row["value"])) for row in rows if row["name"] == "tokenizer/loss"
    ]
    found = [(event.step, event.value) for event in events.Scalars("tokenizer/loss")]
    assert [step for step, _ in found] == [step for step, _ in expected]
    assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-6)


def test_progress(reference):
    progress = reference.result.progress
    assert (progress.epoch, progress.position, progress.total_steps, progress.env_steps) == (
        4,
        0,
        NUM_STEPS,
        120,
    )
    assert [point["epoch"] for point in progress.curve] == [2]
    assert progress.seconds.keys() == {"collection", "tokenizer", "world", "policy", "evaluation"}


def test_the_agent_of_the_run_can_be_loaded(reference):
    loaded = Agent.load(reference.path)
    for name, value in reference.result.agent.weights().items():
        assert torch.equal(loaded.weights()[name], value), name


def test_every_network_has_learned(reference, tiny_run):
    fresh = module.IrisModule(tiny_run(), ActionSpace.discrete(3)).agent.weights()
    for network in ("tokenizer.encoder", "tokenizer.quantizer", "world", "policy"):
        moved = [name for name, value in fresh.items() if name.startswith(network)]
        assert any(not torch.equal(fresh[name], reference.result.agent.weights()[name]) for name in moved), (
            network
        )


def test_the_background_starts_as_the_mean_of_the_first_frames(tiny_run, tmp_path):
    overrides = (
        "tokenizer.has_background=true",
        "training.num_epochs=1",
        "tokenizer.optimization.learning_rate=1e-9",
    )
    result = fit(tiny_run(*overrides), tmp_path / "run", is_quiet=True)
    frames = torch.cat([part["frames"] for part in load_checkpoint(newest(tmp_path / "run")).replay_parts()])
    tokenizer = result.agent.tokenizer
    assert torch.allclose(tokenizer.background, tokenizer.normalize(frames).mean(0), atol=1e-5)


# ---- stopping and going on ----


def test_same_config_same_run(reference, tiny_run, tmp_path):
    fit(tiny_run(), tmp_path / "again", is_quiet=True)
    assert_same_run(reference.path, tmp_path / "again")


def test_another_seed_another_run(reference, tiny_run, tmp_path):
    fit(tiny_run("seed=1", "training.num_epochs=1"), tmp_path / "other", is_quiet=True)
    assert not metrics(reference.path).startswith(metrics(tmp_path / "other"))


@pytest.mark.parametrize(
    ("step", "number"),
    [
        pytest.param(0, signal.SIGTERM, marks=slow),  # collecting
        (3, signal.SIGUSR1),  # tokenizer
        (4, signal.SIGTERM),  # before the world model's first step: while tokens are cached
        (5, signal.SIGTERM),  # the last step of an epoch
        pytest.param(11, signal.SIGTERM, marks=slow),  # world model, second epoch
        (13, signal.SIGINT),  # actor-critic
        pytest.param(14, signal.SIGTERM, marks=slow),  # evaluating
    ],
)
def test_stopped_by_a_signal_and_continued_is_the_same_run(
    reference, tiny_run, tmp_path, monkeypatch, step, number
):
    path = tmp_path / "run"
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        at_step(patch, "before", step, send(number))
        with pytest.raises(Stopped, match=signal.Signals(number).name):
            fit(tiny_run(), path, is_quiet=True)
    assert signal.getsignal(number) == before
    done = load_checkpoint(newest(path)).training[STATE_KEY]["total_steps"]
    assert step <= done <= step + 1, "at most one step is lost, none is done twice"
    result = fit(tiny_run(), path, is_quiet=True)
    assert result.progress.total_steps == NUM_STEPS
    assert_same_run(reference.path, path)


def test_stopped_at_every_few_steps(reference, tiny_run, tmp_path, monkeypatch):
    """Many stops in one run; each process does three steps."""
    path = tmp_path / "run"
    original = saving.RunKeeper.on_train_batch_end
    for _ in range(NUM_STEPS):
        count = []

        def counting(self, *arguments, count=count):
            count.append(1)
            if len(count) == 4:
                signal.raise_signal(signal.SIGTERM)
            return original(self, *arguments)

        monkeypatch.setattr(saving.RunKeeper, "on_train_batch_end", counting)
        try:
            fit(tiny_run(), path, is_quiet=True)
        except Stopped:
            continue
        break
    assert_same_run(reference.path, path)


@pytest.mark.parametrize("step", [6, 10])
def test_a_signal_that_only_lightning_notices(reference, tiny_run, tmp_path, monkeypatch, step):
    """It comes after the saver looked, before the next step."""
    path = tmp_path / "run"
    original = saving.RunKeeper.on_train_batch_end

    def late(self, *arguments):
        original(self, *arguments)
        if arguments[1].progress.total_steps == step:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(saving.RunKeeper, "on_train_batch_end", late)
        with pytest.raises(Stopped, match="SIGTERM"):
            fit(tiny_run(), path, is_quiet=True)
    assert load_checkpoint(newest(path)).training[STATE_KEY]["total_steps"] == step
    fit(tiny_run(), path, is_quiet=True)
    assert_same_run(reference.path, path)


def test_a_signal_in_the_last_step_changes_nothing(reference, tiny_run, tmp_path, monkeypatch):
    """The work asked for is done, so the run ends as finished; no epoch is added when it is called again."""
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_step(patch, "before", NUM_STEPS - 1, send(signal.SIGTERM))
        result = fit(tiny_run(), path, is_quiet=True)
    assert result.progress.epoch == 4
    assert fit(tiny_run(), path, is_quiet=True).progress.total_steps == NUM_STEPS
    assert_same_run(reference.path, path)


@pytest.mark.parametrize("step", [3, 21])
def test_crashed_and_continued_is_the_same_run(reference, tiny_run, tmp_path, monkeypatch, step):
    """A crash saves nothing; the run goes on from the checkpoint before, or from the start."""
    path = tmp_path / "run"

    def crash(work):
        raise RuntimeError("the machine is on fire")

    with monkeypatch.context() as patch:
        at_step(patch, "after", step, crash)
        with pytest.raises(RuntimeError, match="on fire"):
            fit(tiny_run("training.checkpoint_every_epochs=1"), path, is_quiet=True)
    fit(tiny_run("training.checkpoint_every_epochs=1"), path, is_quiet=True)
    assert_same_run(reference.path, path)


def test_saves_by_time(reference, tiny_run, tmp_path, monkeypatch):
    saves = []
    original = saving.RunKeeper._save
    monkeypatch.setattr(
        saving.RunKeeper, "_save", lambda self, *arguments: saves.append(1) or original(self, *arguments)
    )
    fit(tiny_run("training.checkpoint_every_minutes=1e-6"), tmp_path / "run", is_quiet=True)
    assert len(saves) == NUM_STEPS
    assert len(list_checkpoints(tmp_path / "run")) <= 3, "the last two and the best"
    assert_same_run(reference.path, tmp_path / "run")


def test_time_is_up(tiny_run, tmp_path):
    with pytest.raises(Stopped, match=r"training\.max_minutes are over"):
        fit(tiny_run("training.max_minutes=1e-6"), tmp_path / "run", is_quiet=True)
    assert newest(tmp_path / "run").name == "step-000000001"


@pytest.mark.parametrize(
    "overrides",
    [
        ("policy.inputs=tokens", "world.prediction=parallel", "collection.num_envs=2"),
        ("tokenizer.quantizer=fsq", "tokenizer.quantizer.levels=[4, 4]", "imagination.context=burn_in",
         "imagination.burn_in=1"),
        ("world.prediction=parallel", "world.prediction.attention=block_causal", "collection.max_action_hold=4",
         "collection.epsilon_before_policy=0.5", "env.id=Breakout"),
        ("trainer.precision=bf16", "imagination.burn_in=0", "tokenizer.has_background=true",
         "imagination.rewards=expected", "policy.optimization.final_learning_rate=1e-6"),
    ],
    ids=["tokens parallel", "fsq burn_in", "block_causal Breakout", "bf16 expected"],
)  # fmt: skip
def test_other_configs_resume_exactly(tiny_run, tmp_path, monkeypatch, overrides):
    config = tiny_run(*overrides, "training.num_epochs=2", "evaluation.every_epochs=0")
    fit(config, tmp_path / "reference", is_quiet=True)
    with monkeypatch.context() as patch:
        at_step(patch, "before", 8, send(signal.SIGTERM))
        with pytest.raises(Stopped):
            fit(config, tmp_path / "run", is_quiet=True)
    fit(config, tmp_path / "run", is_quiet=True)
    assert_same_run(tmp_path / "reference", tmp_path / "run")


def test_a_finished_run_returns_at_once(reference, tiny_run, monkeypatch):
    monkeypatch.setattr(module.IrisModule, "training_step", lambda *_: pytest.fail("it trains again"))
    before = metrics(reference.path), list_checkpoints(reference.path)
    result = fit(tiny_run(), reference.path, is_quiet=True)
    assert result.progress.total_steps == NUM_STEPS
    for name, value in reference.result.agent.weights().items():
        assert torch.equal(result.agent.weights()[name], value)
    assert (metrics(reference.path), list_checkpoints(reference.path)) == before


def test_a_finished_run_can_be_made_longer(reference, tiny_run, tmp_path):
    """As if it had been that long from the start."""
    fit(tiny_run("training.num_epochs=2"), tmp_path / "run", is_quiet=True)
    fit(tiny_run(), tmp_path / "run", is_quiet=True)
    assert_same_run(reference.path, tmp_path / "run")


def test_epochs_without_any_step(tiny_run, tmp_path):
    late = [f"{name}.optimization.start_after_epoch=3" for name in ("tokenizer", "world", "policy")]
    config = tiny_run(
        *late, "collection.stop_after_epoch=1", "training.num_epochs=4", "evaluation.every_epochs=0"
    )
    progress = fit(config, tmp_path / "run", is_quiet=True).progress
    assert (progress.epoch, progress.total_steps) == (5, 2 + 6)


# ---- bad numbers ----


def injected_into(monkeypatch, component: str, where: str) -> None:
    """NaN in the second step of a component: in its loss, in one entry of one gradient, or in the latents."""
    learner = {"tokenizer": TokenizerLearner, "world": WorldLearner, "policy": PolicyLearner}[component]
    original, calls = learner.losses, []

    def losses(self, segment, draw):
        calls.append(1)
        [(terms, measures)] = original(self, segment, draw)
        if len(calls) == 2 and where == "loss":
            name = next(iter(terms))
            terms[name] = terms[name] * float("nan")
        if len(calls) == 2 and where == "gradient":
            parameter = next(self.network.parameters())

            def poison(grad):
                grad = grad.clone()
                grad[(0,) * grad.dim()] = float("inf")  # in whatever layout it comes
                return grad

            parameter.register_hook(poison)
        yield terms, measures

    monkeypatch.setattr(learner, "losses", losses)


@pytest.mark.parametrize(
    ("component", "where"),
    [
        ("tokenizer", "loss"),
        ("world", "gradient"),
        ("policy", "loss"),
        pytest.param("tokenizer", "gradient", marks=slow),
        pytest.param("world", "loss", marks=slow),
        pytest.param("policy", "gradient", marks=slow),
    ],
)
def test_a_bad_number_ends_the_run_before_any_weight_changes(
    tiny_run, tmp_path, monkeypatch, component, where
):
    path = tmp_path / "run"
    weights = []
    original = module.IrisModule._optimize

    def recording(self, *arguments):
        before = {name: value.clone() for name, value in self.agent.weights().items()}
        weights[:] = [self.agent, before]
        return original(self, *arguments)

    monkeypatch.setattr(module.IrisModule, "_optimize", recording)
    injected_into(monkeypatch, component, where)
    with pytest.raises(
        NumericFailure, match=f"{component}: .*epoch . step 1|{component}: .* step 1"
    ) as caught:
        fit(tiny_run("training.checkpoint_every_epochs=1"), path, is_quiet=True)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    agent, before = weights
    assert all(torch.equal(value, before[name]) for name, value in agent.weights().items())
    epoch = 2 if component == "policy" else 1
    checkpoints = list_checkpoints(path)
    assert [load_checkpoint(folder).manifest.epoch for folder in checkpoints] == ([2] if epoch == 2 else [])


def test_bad_weights_are_never_saved(tiny_run, tmp_path, monkeypatch):
    def break_a_weight(work):
        with torch.no_grad():
            next(iter(work.agent.world.parameters())).view(-1)[0] = float("nan")
        signal.raise_signal(signal.SIGTERM)

    at_step(monkeypatch, "after", 2, break_a_weight)
    with pytest.raises(NumericFailure, match=r"world\..* is not finite; not saved"):
        fit(tiny_run(), tmp_path / "run", is_quiet=True)
    assert not list_checkpoints(tmp_path / "run")


def test_latents_that_are_not_finite_are_named(tiny_run, tmp_path, monkeypatch):
    """Their nearest code is code 0, so nothing else would tell."""
    from iris_wm.tokenizer.tokenizer import Tokenizer

    original = Tokenizer.latents
    monkeypatch.setattr(
        Tokenizer,
        "latents",
        lambda self, frames: original(self, frames) * (float("nan") if self.training else 1),
    )
    config = tiny_run("collection.stop_after_epoch=1")
    with pytest.raises(NumericFailure, match="tokenizer: latents are not finite at epoch 1, step 0"):
        fit(config, tmp_path / "run", is_quiet=True)


# ---- whose run, and on what machine ----


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("seed=5", "seed: it has 0, you asked for 5"),
        ("env.id=Breakout", 'env.id: it has "iris_wm/Catch-v0", you asked for "Breakout"'),
        ("world.num_layers=1", "world.num_layers: it has 2, you asked for 1"),
        ("tokenizer.optimization.learning_rate=1e-3", "tokenizer.optimization.learning_rate"),
        ("policy.loss.gamma=0.9", "policy.loss.gamma"),
    ],
)
def test_a_foreign_run_is_refused(reference, tiny_run, override, key):
    before = metrics(reference.path)
    with pytest.raises(ForeignRun, match=key) as caught:
        fit(tiny_run(override), reference.path, is_quiet=True)
    assert caught.value.exit_code == 3
    assert metrics(reference.path) == before


def test_what_may_change_in_a_run(reference, tiny_run):
    overrides = ("evaluation.num_episodes=3", "trainer.num_threads=1", "training.checkpoint_every_minutes=1")
    assert fit(tiny_run(*overrides), reference.path, is_quiet=True).progress.total_steps == NUM_STEPS


def test_one_writer(reference, tiny_run):
    with RunFolder(reference.path), pytest.raises(RunInUse):
        fit(tiny_run(), reference.path, is_quiet=True)


def test_a_folder_with_other_things_is_refused(tiny_run, tmp_path):
    (tmp_path / "thesis.tex").write_text("dear reader")
    with pytest.raises(ForeignRun, match=r"thesis\.tex"):
        fit(tiny_run(), tmp_path, is_quiet=True)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_machine_that_is_not_there_is_refused(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=r"trainer.accelerator: asked for 1 GPU, found 0; use .*cpu"):
        fit(tiny_run("trainer.accelerator=gpu"), tmp_path / "run", is_quiet=True)
    with pytest.raises(ValueError, match=r"trainer.devices: asked for 4096, found"):
        fit(tiny_run("trainer.devices=4096"), tmp_path / "run", is_quiet=True)
    assert not (tmp_path / "run").exists()


def test_cpu_processes_are_counted_in_cores(tiny_run, monkeypatch):
    """Also where there is a GPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    check_machine(tiny_run("trainer.accelerator=cpu", "trainer.devices=2").trainer)
    with pytest.raises(ValueError, match=r"trainer.devices: asked for 5, found 4"):
        check_machine(tiny_run("trainer.accelerator=cpu", "trainer.devices=5").trainer)
    with pytest.raises(ValueError, match=r"trainer.devices: asked for 2, found 1"):
        check_machine(tiny_run("trainer.accelerator=auto", "trainer.devices=2").trainer)
