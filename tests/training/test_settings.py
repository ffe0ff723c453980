import pytest

from diffiml_plugin.errors import DiffIMLError
from diffiml_plugin.training.settings import TrainSettings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "--epochs 0 must be a positive number"),
        ({"lr": 0.0}, "--lr 0.0 must be above 0"),
        ({"warmup_epochs": 2, "epochs": 2}, "--warmup_epochs 2 must be 0 to 1"),
        ({"if_padding": True, "if_resizing": True}, "exclude each other"),
        ({"synth_windows": "256,,384"}, "--synth_windows 256,,384 must be sides in pixels, as 256,384,512"),
        ({"synth_windows": "256,9999"}, "--synth_windows 256,9999 must be sides of at most 4096 pixels"),
        ({"synth_windows": "256,384", "crop_size": 256}, "says --synth_window and --crop_size too; leave those out"),
        ({"cache": "~/pixels"}, "--cache ~/pixels must be written out: no shell expands that ~"),
        ({"log_dir": "~"}, "--log_dir ~ must be written out"),
        ({"precision": "fp8"}, "--precision fp8 is not one of auto, fp32, bf16, fp16; did you mean"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(DiffIMLError, match=message):
        TrainSettings(**wrong)
