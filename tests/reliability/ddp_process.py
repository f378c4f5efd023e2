"""One of two processes that train together, with a hook in one of them; Lightning starts the second like the first.

python tests/reliability/ddp_process.py NOTES HOOK ARGUMENTS...: iris-wm with these arguments. HOOK: JSON as in
fork_server.py, with a "rank". Each process writes a hash of its weights to NOTES after every epoch.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

from fork_server import install

from iris_wm import __main__
from iris_wm.training.module import IrisModule


def main() -> int:
    notes, hook = Path(sys.argv[1]), json.loads(sys.argv[2])
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    (notes / f"pid-{rank}").write_text(str(os.getpid()))
    original = IrisModule.on_train_epoch_end

    def hashing(self: IrisModule) -> None:
        digest = hashlib.sha256()
        for weight in self.agent.weights().values():
            digest.update(weight.contiguous().numpy().tobytes())
        (notes / f"weights-{rank}-{self.progress.epoch}").write_text(digest.hexdigest())
        original(self)

    IrisModule.on_train_epoch_end = hashing  # type: ignore[method-assign]
    if hook and hook["rank"] == rank:
        install(hook)
    from iris_wm import cli

    sys_argv, cli_main = list(sys.argv), cli.main
    cli.main = lambda argv=None: cli_main(sys_argv[3:])  # type: ignore[assignment, misc]
    return __main__.main()


if __name__ == "__main__":
    sys.exit(main())
