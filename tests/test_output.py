"""Where a drafter may be written: nobody's model is replaced, and a disk that refuses is said."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file

from dspec.config import DrafterConfig, TargetFacts
from dspec.errors import CheckpointError
from dspec.io.checkpoints import check_output, read_config, tensor_shapes, write_checkpoint

GOLDEN = Path(__file__).parent / "golden" / "dflash_tiny" / "target"
SIZES = {"hidden_size": 8, "intermediate_size": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
FACTS = TargetFacts(**SIZES, head_dim=2, vocab_size=300, num_layers=6)
SMALL = DrafterConfig.for_target(FACTS, block_size=4, layers=1, mask_token_id=299, target_layer_ids=(1, 3))
ZEROS = {name: np.zeros(shape, np.float32) for name, shape in tensor_shapes(SMALL).items()}


def write_zeros(folder):
    write_checkpoint(folder, SMALL, lambda path: save_file(ZEROS, path))


def no_config(folder):
    (folder / "config.json").unlink()


@pytest.mark.clause("BD-7")
@pytest.mark.parametrize("spoil", [lambda folder: None, no_config], ids=["config", "weights-only"])
def test_a_folder_of_another_model_is_not_overwritten(tmp_path, spoil):
    place = Path(shutil.copytree(GOLDEN, tmp_path / "target"))
    spoil(place)
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    with pytest.raises(CheckpointError, match=r"output: got .* holds another model .* an empty folder or"):
        write_zeros(place)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_an_empty_folder_and_a_drafters_are_written(tmp_path):
    for _ in range(2):
        write_zeros(tmp_path)
    assert read_config(tmp_path).block_size == SMALL.block_size
    (tmp_path / "notes.txt").write_text("kept")
    check_output(tmp_path)


@pytest.mark.parametrize("below", ["", "drafter", "a/b"])
def test_a_file_is_no_output(tmp_path, below):
    (tmp_path / "file").write_text("text")
    with pytest.raises(CheckpointError, match=r"output: got .*file is a file; needs a folder"):
        check_output(tmp_path / "file" / below)


def test_weights_that_the_disk_refuses_are_a_checkpoint_error(tmp_path):
    def refuse(path):
        raise SafetensorError("No space left on device")

    with pytest.raises(CheckpointError, match="No space left"):
        write_checkpoint(tmp_path / "drafter", SMALL, refuse)
    assert not list(tmp_path.iterdir())


def test_weights_get_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_zeros(tmp_path / "drafter")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "drafter").iterdir()}
    assert modes == {"config.json": 0o640, "model.safetensors": 0o640}
