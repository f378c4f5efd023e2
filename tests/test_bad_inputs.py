"""Bad input to every command: the right exit code, a short message that names the key and the value, no traceback."""

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from iris_wm import cli
from iris_wm.checkpoint.run_folder import RunFolder
from iris_wm.config import dump_yaml


@pytest.fixture(scope="module")
def place(tiny_run, tmp_path_factory) -> Path:
    """A folder with a run (run), its config (tiny.yaml) and things that are none of that."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "tiny.yaml").write_text(dump_yaml(tiny_run()))
    short = ["--training.num_epochs", "1", "--quiet"]
    assert cli.main(["fit", "--config", f"{folder}/tiny.yaml", "--run", f"{folder}/run", *short]) == 0
    (folder / "empty").mkdir()
    (folder / "empty file").write_bytes(b"")
    (folder / "random.pt").write_bytes(bytes(range(256)) * 4)
    (folder / "page.html").write_text("<!DOCTYPE html><html><body>404</body></html>")
    (folder / "list.yaml").write_text("- 1\n- 2\n")
    (folder / "twice.yaml").write_text("seed: 1\nenv: {id: Breakout}\nseed: 2\n")
    (folder / "deep.yaml").write_text("a: " + "[" * 2000 + "]" * 2000)
    (folder / "bomb.yaml").write_text("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n")
    (folder / "large.yaml").write_text("# " + "x" * 200_000)
    (folder / "tag.yaml").write_text("env: !!python/object/apply:os.system ['true']\n")
    (folder / "octal.yaml").write_text("seed: 010\n")
    (folder / "no.yaml").write_text("env: {id: no}\n")
    (folder / "target.yaml").write_text("env: {_target_: os.system}\n")
    (folder / "section.yaml").write_text("training: 5\n")
    (folder / "folder.yaml").mkdir()
    foreign = folder / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("dear reader")
    started = folder / "never saved"
    shutil.copytree(folder / "run", started)
    shutil.rmtree(started / "checkpoints")
    (started / "checkpoints").mkdir()
    broken = folder / "broken config"
    shutil.copytree(folder / "run", broken)
    (broken / "config.yaml").write_text("seed: [\n")
    damaged = folder / "damaged"
    shutil.copytree(folder / "run", damaged)
    for weights in damaged.glob("checkpoints/*/agent.safetensors"):
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    (folder / "utf16.yaml").write_bytes("seed: 1\n".encode("utf-16"))
    (folder / "latin.yaml").write_bytes(b"# \xfc\nseed: 1\n")
    (folder / "leads nowhere").symlink_to("no such folder")
    edited = folder / "edited config"
    shutil.copytree(folder / "run", edited)
    text = (edited / "config.yaml").read_text()
    (edited / "config.yaml").write_text(text.replace("id: iris_wm/Catch-v0", "id: Breakout"))
    renamed = folder / "renamed"
    shutil.copytree(folder / "run", renamed)
    for checkpoint in (renamed / "checkpoints").iterdir():
        checkpoint.rename(checkpoint.with_name(f"old-{checkpoint.name}"))
    for name in ("lock", "metrics.csv", "identity.json"):
        other = folder / f"{name} is a folder"
        shutil.copytree(folder / "run", other)
        (other / name).unlink()
        (other / name).mkdir()
    for name in ("replay", "checkpoints", "tensorboard"):
        other = folder / f"{name} is a file"
        shutil.copytree(folder / "run", other, ignore=shutil.ignore_patterns(name))
        (other / name).write_text("")
    nameless = folder / "without identity"
    shutil.copytree(folder / "run", nameless, ignore=shutil.ignore_patterns("identity.json"))
    return folder


# ---- keys of the config: (override, what the message must hold) ----

KEYS: list[tuple[str, list[str]]] = [
    ("--seed=-5", ["seed", "-5"]),
    ("--seed=99999999999", ["seed", "99999999999"]),
    ("--seed=1.5", ["seed", "1.5"]),
    ("--seed=true", ["seed", "true"]),
    ("--seed=010", ["seed", "010"]),
    ("--seed=", ["seed"]),
    ("--seed=99999999999999999999999", ["seed", "64 bits"]),
    ("--sed=1", ["sed", "seed"]),
    ("--env.id=Breakot", ["env", "Breakot", "Breakout"]),
    ("--env.id=5", ["env.id", "5"]),
    ("--env.id=", ["env.id"]),
    ("--env.id=../../etc/passwd", ["../../etc/passwd"]),
    ("--env.frame_skip=0", ["env.frame_skip", "0"]),
    ("--env.frame_skip=-4", ["env.frame_skip", "-4"]),
    ("--env.noop_max=-1", ["env.noop_max", "-1"]),
    ("--env.sticky=2.0", ["env.sticky", "2.0"]),
    ("--env.sticky=.nan", ["env.sticky", "nan"]),
    ("--env.resolution=0", ["env.resolution", "0"]),
    ("--env.resolution=63", ["resolution", "63"]),
    ("--env.resolution=100000000", ["resolution", "100000000"]),
    ("--env.resize=nearest", ["env.resize", "nearest"]),
    ("--env.max_emulator_frames=0", ["env.max_emulator_frames", "0"]),
    ("--tokenizer.quantizer.codebook_size=0", ["tokenizer.quantizer.codebook_size", "0"]),
    ("--tokenizer.quantizer.codebook_size=-1", ["tokenizer.quantizer.codebook_size", "-1"]),
    ("--tokenizer.quantizer.embedding_dim=0", ["tokenizer.quantizer.embedding_dim", "0"]),
    ("--tokenizer.quantizer=vqq", ["tokenizer.quantizer", "vqq"]),
    ("--tokenizer.autoencoder.channels=0", ["tokenizer.autoencoder.channels", "0"]),
    ("--tokenizer.autoencoder.channel_multipliers=[]", ["channel_multipliers"]),
    ("--tokenizer.autoencoder.channel_multipliers=[1, -1]", ["channel_multipliers", "-1"]),
    ("--tokenizer.autoencoder.patch_size=3", ["patch_size", "3"]),
    ("--world.num_layers=0", ["world.num_layers", "0"]),
    ("--world.num_heads=3", ["world", "3"]),
    ("--world.embed_dim=15", ["world", "15"]),
    ("--world.context_steps=0", ["world.context_steps", "0"]),
    ("--world.context_steps=1", ["context_steps", "1"]),
    ("--world.embed_dim=10000000000", ["parameters"]),
    ("--policy.hidden_size=0", ["policy.hidden_size", "0"]),
    ("--policy.inputs=pixels", ["policy.inputs", "pixels"]),
    ("--imagination.horizon=0", ["imagination.horizon", "0"]),
    ("--imagination.horizon=-3", ["imagination.horizon", "-3"]),
    ("--imagination.burn_in=-1", ["imagination.burn_in", "-1"]),
    ("--imagination.context=everything", ["imagination.context", "everything"]),
    ("--collection.env_steps_per_epoch=0", ["collection.env_steps_per_epoch", "0"]),
    ("--collection.num_envs=0", ["collection.num_envs", "0"]),
    ("--collection.num_envs=7", ["num_envs", "7"]),
    ("--collection.epsilon=1.5", ["collection.epsilon", "1.5"]),
    ("--collection.epsilon=.nan", ["collection.epsilon", "nan"]),
    ("--collection.policy_temperature=-1", ["collection.policy_temperature", "-1"]),
    ("--collection.policy_temperature=nan", ["collection.policy_temperature", "nan"]),
    ("--collection.stop_after_epoch=-1", ["collection.stop_after_epoch", "-1"]),
    ("--training.num_epochs=0", ["training.num_epochs", "0"]),
    ("--training.num_epochs=many", ["training.num_epochs", "many"]),
    ("--tokenizer.optimization.learning_rate=0", ["tokenizer.optimization.learning_rate", "0"]),
    ("--tokenizer.optimization.learning_rate=-1e-4", ["learning_rate", "-0.0001"]),
    ("--tokenizer.optimization.learning_rate=.inf", ["learning_rate", "inf"]),
    ("--tokenizer.optimization.learning_rate=.nan", ["learning_rate", "nan"]),
    ("--tokenizer.optimization.learning_rate=fast", ["learning_rate", "fast"]),
    ("--world.optimization.weight_decay=.inf", ["weight_decay", "inf"]),
    ("--world.optimization.max_grad_norm=.nan", ["max_grad_norm", "nan"]),
    ("--world.optimization.max_grad_norm=-1", ["max_grad_norm", "-1"]),
    ("--policy.optimization.batch_size=0", ["batch_size", "0"]),
    ("--policy.optimization.steps_per_epoch=-1", ["steps_per_epoch", "-1"]),
    ("--training.checkpoint_every_minutes=0", ["checkpoint_every_minutes", "0"]),
    ("--training.checkpoint_every_minutes=.nan", ["checkpoint_every_minutes", "nan"]),
    ("--training.checkpoint_every_epochs=0", ["checkpoint_every_epochs", "0"]),
    ("--training.max_minutes=-1", ["max_minutes", "-1"]),
    ("--evaluation.num_episodes=0", ["evaluation.num_episodes", "0"]),
    ("--evaluation.policy_temperature=.nan", ["evaluation.policy_temperature", "nan"]),
    ("--evaluation.max_steps=0", ["evaluation.max_steps", "0"]),
    ("--tokenizer.loss.l1=-1", ["tokenizer.loss.l1", "-1"]),
    ("--policy.loss.gamma=1.1", ["policy.loss.gamma", "1.1"]),
    ("--policy.loss.entropy_weight=.nan", ["entropy_weight", "nan"]),
    ("--tokenizer.loss.perceptual=lpips", ["perceptual_weights"]),
    ("--trainer.devices=99", ["trainer.devices", "99"]),
    ("--trainer.devices=0", ["trainer.devices", "0"]),
    ("--trainer.accelerator=tpu", ["trainer.accelerator", "tpu"]),
    ("--trainer.precision=16", ["trainer.precision", "16"]),
    ("--trainer.num_threads=-1", ["trainer.num_threads", "-1"]),
    ("--trainer.timeout_minutes=0", ["trainer.timeout_minutes", "0"]),
    ("--class_path=os.system", ["class_path"]),
    ("--_target_=os.system", ["_target_"]),
    ("--_instantiator=builtins.exec", ["_instantiator"]),
    ("--training=5", ["training", "5"]),
    ("--training..x=5", ["training..x"]),
    ("--training.nothing.at.all=5", ["nothing"]),
    ("--env.id", ["env.id", "value"]),
    ("stray", ["stray"]),
    ("-x", ["-x"]),
    ("--seed=[1", ["seed"]),
]

# ---- whole commands: (arguments, exit code, what the message must hold); {p} is the folder of `place` ----

COMMANDS: list[tuple[str, int, list[str]]] = [
    ("fit --run {p}/new", 2, ["--config"]),
    ("fit --config {p}/missing.yaml --run {p}/new", 2, ["missing.yaml"]),
    ("fit --config {p}/folder.yaml --run {p}/new", 2, ["folder.yaml", "folder"]),
    ("fit --config {p}/list.yaml --run {p}/new", 2, ["list.yaml"]),
    ("fit --config {p}/twice.yaml --run {p}/new", 2, ["twice.yaml:3", "seed", "line 1"]),
    ("fit --config {p}/deep.yaml --run {p}/new", 2, ["deep.yaml", "20"]),
    ("fit --config {p}/bomb.yaml --run {p}/new", 2, ["bomb.yaml", "aliases"]),
    ("fit --config {p}/large.yaml --run {p}/new", 2, ["large.yaml", "100 kB"]),
    ("fit --config {p}/tag.yaml --run {p}/new", 2, ["tag.yaml", "tags"]),
    ("fit --config {p}/octal.yaml --run {p}/new", 2, ["octal.yaml:1", "010"]),
    ("fit --config {p}/no.yaml --run {p}/new", 2, ['"no"']),
    ("fit --config {p}/target.yaml --run {p}/new", 2, ["_target_"]),
    ("fit --config {p}/section.yaml --run {p}/new", 2, ["training", "5"]),
    ("fit --config {p}/random.pt --run {p}/new", 2, ["random.pt", "binary"]),
    ("fit --config {p}/page.html --run {p}/new", 2, ["page.html", "HTML"]),
    ("fit --config https://example.org/a.yaml --run {p}/new", 2, ["https://example.org/a.yaml", "URL"]),
    ("fit --config {p}/tiny.yaml --run https://example.org/run", 2, ["https://example.org/run", "URL"]),
    ("fit --config {p}/tiny.yaml --run {p}/random.pt", 2, ["random.pt", "file"]),
    ("fit --config {p}/tiny.yaml --run {p}/random.pt/run", 5, ["random.pt"]),
    ("fit --config {p}/tiny.yaml --run {p}/foreign", 3, ["foreign", "thesis.tex"]),
    ("fit --config {p}/tiny.yaml --run {p}/a\nb", 2, ["printable"]),
    ("fit --config {p}/tiny.yaml --run ", 2, ["printable"]),
    ("fit --config {p}/tiny.yaml --run /proc/iris", 5, ["/proc/iris"]),
    ("fit --config {p}/tiny.yaml --run /dev/null", 2, ["/dev/null"]),
    ("fit --config {p}/tiny.yaml --run {p}/" + "x" * 300, 5, ["File name too long"]),
    ("fit --config {p}/tiny.yaml --run {p}/run --seed 3", 3, ["seed", "3"]),
    ("fit --run {p}/broken config", 2, ["config.yaml"]),
    ("fit --run {p}/damaged", 3, ["damaged"]),
    ("fit --config {p}/utf16.yaml --run {p}/new", 2, ["utf16.yaml", "binary"]),
    ("fit --config {p}/latin.yaml --run {p}/new", 2, ["latin.yaml"]),
    ("fit --config /dev/zero --run {p}/new", 2, ["/dev/zero", "100 kB"]),
    ("fit --config {p}/tiny.yaml --run {p}/leads nowhere", 2, ["leads nowhere", "no such folder"]),
    ("fit --run {p}/edited config", 3, ["env.id", "Breakout"]),
    ("fit --run {p}/renamed", 3, ["old-step"]),
    ("fit --run {p}/lock is a folder", 5, ["lock is a folder/lock"]),
    ("fit --run {p}/metrics.csv is a folder --training.num_epochs 2", 5, ["metrics.csv"]),
    ("fit --run {p}/identity.json is a folder", 3, ["identity.json", "regular file"]),
    ("fit --run {p}/replay is a file", 5, ["replay"]),
    ("fit --run {p}/checkpoints is a file", 5, ["checkpoints"]),
    ("fit --run {p}/tensorboard is a file --training.num_epochs 2", 5, ["tensorboard"]),
    ("fit --run {p}/without identity", 3, ["identity.json"]),
    ("evaluate {p}/edited config", 3, ["env.id", "Breakout"]),
    ("evaluate {p}/renamed", 3, ["old-step"]),
    ("evaluate {p}/without identity", 3, ["identity.json"]),
    ("evaluate {p}/run --output /dev/null", 2, ["/dev/null"]),
    ("evaluate {p}/run --output /proc/iris.json", 5, ["/proc"]),
    ("evaluate-dream {p}/run --output {p}/random.pt", 5, ["random.pt"]),
    ("fit --config {p}/tiny.yaml", 2, ["--run"]),
    ("evaluate {p}/missing", 2, ["missing"]),
    ("evaluate {p}/random.pt", 2, ["random.pt"]),
    ("evaluate {p}/empty", 2, ["empty"]),
    ("evaluate {p}/never saved", 2, ["no checkpoint"]),
    ("evaluate {p}/broken config", 2, ["config.yaml"]),
    ("evaluate {p}/damaged", 3, ["damaged"]),
    ("evaluate https://example.org/run", 2, ["https://example.org/run"]),
    ("evaluate {p}/run --episodes 0", 2, ["episodes", "0"]),
    ("evaluate {p}/run --episodes -1", 2, ["episodes", "-1"]),
    ("evaluate {p}/run --episodes many", 2, ["episodes", "many"]),
    ("evaluate {p}/run --episodes 1 --policy-temperature nan", 2, ["temperature", "nan"]),
    ("evaluate {p}/run --episodes 1 --policy-temperature -1", 2, ["temperature", "-1"]),
    ("evaluate {p}/run --episodes 1 --policy-temperature inf", 2, ["temperature", "inf"]),
    ("evaluate {p}/run --episodes 1 --envs 0", 2, ["envs", "0"]),
    ("evaluate {p}/run --episodes 1 --envs -1", 2, ["envs", "-1"]),
    ("evaluate {p}/run --episodes 1 --seed -5", 2, ["seed", "-5"]),
    ("evaluate {p}/run --episodes 1 --output {p}/empty", 2, ["empty"]),
    ("evaluate {p}/run --episodes 1 --output {p}/random.pt/result.json", 5, ["random.pt"]),
    ("evaluate {p}/run --nonsense 1", 2, ["--nonsense"]),
    ("dream {p}/missing", 2, ["missing"]),
    ("dream {p}/damaged", 3, ["damaged"]),
    ("dream {p}/run --steps 0", 2, ["steps", "0"]),
    ("dream {p}/run --steps -1", 2, ["steps", "-1"]),
    ("dream {p}/run --burn-in -1", 2, ["burn-in", "-1"]),
    ("dream {p}/run --seed -1", 2, ["seed", "-1"]),
    ("dream {p}/run --temperature -1", 2, ["temperature", "-1"]),
    ("dream {p}/run --temperature nan", 2, ["temperature", "nan"]),
    ("dream {p}/run --steps 2 --output {p}/random.pt", 2, ["random.pt"]),
    ("report {p}/missing", 2, ["missing"]),
    ("report {p}/damaged", 3, ["damaged"]),
    ("report {p}/run --episodes 0", 2, ["episodes", "0"]),
    ("report {p}/run --seed -1", 2, ["seed", "-1"]),
    ("play {p}/missing", 2, ["missing"]),
    ("play {p}/run --port 99999", 2, ["port", "99999"]),
    ("play {p}/run --port -1", 2, ["port", "-1"]),
    ("play {p}/run --host no.such.host.invalid", 2, ["no.such.host.invalid"]),
    ("play {p}/run --speed nan", 2, ["frames", "nan"]),
    ("play {p}/run --speed 0", 2, ["0"]),
    ("play {p}/run --starts 0", 2, ["0"]),
    ("checkpoint verify {p}/missing", 2, ["missing"]),
    ("checkpoint verify {p}/random.pt", 2, ["random.pt"]),
    ("checkpoint verify {p}/empty", 3, ["no checkpoint"]),
    ("checkpoint list {p}/missing", 2, ["missing"]),
    ("checkpoint prune {p}/run --keep 0", 2, ["keep", "0"]),
    ("checkpoint prune {p}/empty", 2, ["empty"]),
    ("checkpoint export {p}/run {p}/random.pt", 5, ["random.pt"]),
    ("checkpoint export {p}/run {p}/t --which oldest", 2, ["oldest"]),
    ("checkpoint export {p}/damaged {p}/t", 3, ["damaged"]),
    ("checkpoint burn {p}/run", 2, ["burn"]),
    ("checkpoint", 2, ["ACTION"]),
    ("import {p}/missing.pt {p}/t", 2, ["missing.pt"]),
    ("import {p}/random.pt {p}/t", 2, ["random.pt"]),
    ("import {p}/empty file {p}/t", 2, ["empty file"]),
    ("import {p}/page.html {p}/t", 2, ["page.html"]),
    ("import {p}/empty {p}/t", 2, ["empty"]),
    ("import https://example.org/a.pt {p}/t", 2, ["https://example.org/a.pt"]),
    ("import {p}/random.pt {p}/t --heads 0", 2, ["random.pt"]),
    ("export {p}/missing {p}/t.pt", 2, ["missing"]),
    ("export {p}/random.pt {p}/t.pt", 2, ["random.pt"]),
    ("export {p}/run {p}/t.pt", 2, ["patch"]),
    ("options wrld", 2, ["wrld", "world"]),
    ("burn", 2, ["burn"]),
    ("", 2, ["COMMAND"]),
    ("--nonsense", 2, ["COMMAND"]),
]


SPACED = ["never saved", "broken config", "empty file", "leads nowhere", "edited config", "without identity"]
SPACED += [f"{name} is a folder" for name in ("lock", "metrics.csv", "identity.json")]
SPACED += [f"{name} is a file" for name in ("replay", "checkpoints", "tensorboard")]


def call(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    try:
        code = cli.main(arguments)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    return code, capsys.readouterr().err


def check(code: int, expected: int, text: str, words: list[str]) -> None:
    assert code == expected, text
    assert "Traceback" not in text
    assert 0 < len(text) < 2000, text
    lines = text.splitlines()
    assert len([line for line in lines if not line.startswith((" ", "usage:"))]) == 1, text
    for word in words:
        assert word in text, (word, text)


@pytest.mark.parametrize(("override", "words"), KEYS, ids=[key for key, _ in KEYS])
def test_config_keys(place, capsys, tmp_path, override, words):
    run = tmp_path / "never made"
    code, text = call(["fit", "--config", f"{place}/tiny.yaml", "--run", str(run), override], capsys)
    check(code, 2, text, words)
    assert not run.exists(), "refused before anything is made"


@pytest.mark.parametrize(
    ("command", "expected", "words"), COMMANDS, ids=[command[:60] or "nothing" for command, _, _ in COMMANDS]
)
def test_commands(place, capsys, command, expected, words):
    # Names with a space are single arguments.
    spaced = command
    for name in SPACED:
        spaced = spaced.replace(name, name.replace(" ", "\0"))
    arguments = (
        [part.replace("\0", " ").replace("{p}", str(place)) for part in spaced.split(" ")] if spaced else []
    )
    started = time.monotonic()
    code, text = call(arguments, capsys)
    check(code, expected, text, words)
    assert time.monotonic() - started < 20
    assert not (place / "new").exists()
    assert not (place / "t").exists() or not any((place / "t").iterdir())


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_a_rank_that_is_none(place, tmp_path, capsys, monkeypatch, name):
    monkeypatch.setenv(name, "x")
    code, text = call(["fit", "--config", f"{place}/tiny.yaml", "--run", str(tmp_path / "run")], capsys)
    check(code, 2, text, [name, "'x'", "expected an integer"])


def test_a_folder_that_cannot_be_written(place, tmp_path, capsys):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    code, text = call(["fit", "--config", f"{place}/tiny.yaml", "--run", str(tmp_path / "run")], capsys)
    tmp_path.chmod(stat.S_IRWXU)
    check(code, 5, text, ["Permission denied"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["fit", "--config", "none.yaml", "--run", "x"], 2), (["evaluate", "none"], 2)],
)
def test_as_a_process(tmp_path, arguments, expected):
    done = subprocess.run(
        [sys.executable, "-m", "iris_wm", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    check(done.returncode, expected, done.stderr, ["none"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("heavy", "commands"),
    [
        (
            "torch",
            {
                "fit --config {p}/none.yaml --run {p}/new": 2,
                "fit --config {p}/twice.yaml --run {p}/new": 2,
                "fit --config {p}/tiny.yaml --run {p}/held": 3,
                "evaluate {p}/empty": 2,
                "evaluate-dream {p}/run {p}/empty": 2,
                "play {p}/none": 2,
            },
        ),
        (
            "lightning",
            {
                "fit --config {p}/tiny.yaml --run {p}/new --sed 3": 2,
                "fit --config {p}/tiny.yaml --run {p}/run --seed 3": 3,
                "fit --config {p}/tiny.yaml --run {p}/foreign": 3,
                "evaluate {p}/damaged": 3,
            },
        ),
    ],
)
def test_refused_before_anything_heavy_is_imported(place, heavy, commands):
    """Torch is a second and a half, Lightning two more; whoever mistypes a path should not wait for them."""
    program = (
        "import sys; from iris_wm import cli\n"
        "for command in sys.argv[1:]:\n"
        f"    print(cli.main(command.split()), {heavy!r} in sys.modules)\n"
        "    print('end of a command', file=sys.stderr)"
    )
    with RunFolder(place / "held", {"seed": 0}):
        done = subprocess.run(
            [sys.executable, "-c", program, *(command.replace("{p}", str(place)) for command in commands)],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.stdout.splitlines() == [f"{expected} False" for expected in commands.values()], done.stderr
    *errors, rest = done.stderr.split("end of a command\n")
    assert rest == ""
    for (command, expected), error in zip(commands.items(), errors, strict=True):
        check(expected, expected, error, [])
        assert ("held" in command) == (f"in use by process {os.getpid()}" in error)


def test_debug_shows_the_traceback(place):
    with pytest.raises(ValueError, match="missing"):
        cli.main(["evaluate", f"{place}/missing", "--debug"])
