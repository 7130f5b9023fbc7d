"""Files: drafter checkpoints, numbered training checkpoints, data. Nothing is ever unpickled."""
