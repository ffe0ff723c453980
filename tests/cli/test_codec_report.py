import numpy as np
import pytest
from PIL import Image

from diffiml_plugin.cli.main import main
from diffiml_plugin.codec import report as codec_report
from diffiml_plugin.method.lightvae import LightVAE


@pytest.mark.parametrize("size", ["64", "0"])
def test_codec_report_from_the_command_line(tmp_path, capsys, monkeypatch, size):
    (tmp_path / "Gt").mkdir()
    for index in range(3):
        Image.fromarray(np.tri(40, 60, index, dtype=np.uint8) * 255).save(tmp_path / "Gt" / f"{index}.png")
    monkeypatch.setattr(codec_report, "SDVAE", lambda: LightVAE(width=2))
    output = tmp_path / "report"
    assert main(["codec-report", "--masks", str(tmp_path / "Gt"), "--output", str(output), "--image_size", size]) == 0
    assert (output / "codec.json").is_file() and str(output / "codec.html") in capsys.readouterr().out
