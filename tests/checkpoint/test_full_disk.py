"""A full or failing disk: whatever call fails, earlier checkpoints stay good and nothing is left behind."""

import errno
import os
import shutil
from types import SimpleNamespace

import pytest

from iris_wm.checkpoint import durable
from iris_wm.checkpoint.errors import ResourceError, exit_code
from iris_wm.checkpoint.folder import resume
from iris_wm.checkpoint.verify import list_checkpoints, verify_checkpoint

CALLS = {
    "write": errno.ENOSPC,
    "open": errno.ENOSPC,
    "fsync": errno.EIO,
    "rename": errno.ENOSPC,
    "mkdir": errno.EDQUOT,
}


class Failing:
    """Lets `allowed` calls of an os function pass and fails the next one, or all that follow."""

    def __init__(self, function, allowed, code, lasting):
        self.function, self.allowed, self.code, self.lasting = function, allowed, code, lasting
        self.failed = False

    def __call__(self, *arguments, **options):
        self.allowed -= 1
        if self.allowed == -1 or (self.lasting and self.allowed < 0):
            self.failed = True
            raise OSError(self.code, os.strerror(self.code))
        return self.function(*arguments, **options)


def error_of(function):
    """The ResourceError that the function raises; None if it raises nothing."""
    try:
        function()
    except ResourceError as error:
        return error
    return None


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("name", CALLS)
def test_failure_of_every_call_of_a_save(toy, monkeypatch, record_property, name, lasting):
    monkeypatch.setattr(durable, "_CHUNK", 150)
    run = toy.new([1, 2])
    run.close()
    good = toy.path.with_name("good")
    shutil.copytree(toy.path, good)
    for allowed in range(1000):
        shutil.rmtree(toy.path)
        shutil.copytree(good, toy.path)
        run = toy.open()
        resume(run)
        failing = Failing(getattr(os, name), allowed, CALLS[name], lasting)
        with monkeypatch.context() as patched:
            patched.setattr(os, name, failing)
            if failing_save := error_of(lambda run=run: toy.save(run, 3)):
                assert exit_code(failing_save) == 5
                assert os.strerror(CALLS[name]) in str(failing_save)
                assert "\n" not in str(failing_save)
        run.close()
        newest = list_checkpoints(toy.path)[0]
        verify_checkpoint(newest)
        with toy.open() as run:
            toy.check(resume(run), 3 if newest.name.endswith("3") else 2)
            toy.save(run, 3)
        assert not [path for path in toy.path.rglob("*") if path.name.startswith(".tmp-")]
        if not failing.failed:
            break
    print(f"{name}, {'lasting' if lasting else 'once'}: {allowed} failures survived")
    record_property("tried", allowed)
    assert 1 <= allowed < 999


def test_a_failed_save_can_be_tried_again(toy, monkeypatch):
    run = toy.new([1])
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", Failing(os.write, 5, errno.ENOSPC, False))
        with pytest.raises(ResourceError, match=r"step 2 .*No space left on device"):
            toy.save(run, 2)
    toy.save(run, 3)
    run.close()
    with toy.open() as run:
        toy.check(resume(run), 3)


def test_partial_writes_are_continued(toy, monkeypatch):
    write = os.write
    monkeypatch.setattr(
        os, "write", lambda descriptor, data: write(descriptor, data[: max(1, len(data) // 2)])
    )
    with toy.new([1]):
        pass
    with toy.open() as run:
        toy.check(resume(run), 1)


def test_too_little_free_space_is_noticed_before_anything_is_written(toy, monkeypatch):
    run = toy.new([1])
    before = sorted(str(path) for path in toy.path.rglob("*"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2_000))
    with pytest.raises(ResourceError, match="3 times what a checkpoint takes") as caught:
        toy.save(run, 2)
    assert exit_code(caught.value) == 5
    assert sorted(str(path) for path in toy.path.rglob("*")) == before
