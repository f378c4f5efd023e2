"""The run folder on disk: checkpoints that survive kills and full disks, and that notice damage."""
