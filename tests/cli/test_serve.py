import pickle

from diffiml_plugin.cli import serve as verb
from diffiml_plugin.cli.command_line import parse_arguments
from diffiml_plugin.prediction.serve import ServeSettings
from diffiml_plugin.settings import CommonSettings


def test_flags_reach_the_page_and_the_model_in_its_process(monkeypatch):
    given = []
    monkeypatch.setattr("diffiml_plugin.prediction.serve.serve", lambda *arguments: given.extend(arguments))
    words = "--checkpoint_path w --device cpu --threshold 0.3 --ensemble_size 2 --port 0 --time_limit_s 9".split()
    assert verb.run(parse_arguments("benco serve", verb, words)) == 0
    make_detector, settings = given
    made = pickle.loads(pickle.dumps(make_detector)).args
    assert made == ("w", CommonSettings(device="cpu"), "", {"ensemble_size": 2}, 0.3, "auto", "off")
    assert settings == ServeSettings(port=0, time_limit_s=9)
