from diffiml_plugin.settings import DEFAULT, Setting, layer, resolve


def test_the_first_layer_that_says_something_wins_and_is_named():
    said = layer({"lr": 0.1, "epochs": None}, "flag")
    file = layer({"lr": 0.2, "epochs": 3, "seed": 0}, "from mine.yaml")
    settings = resolve(said, file, layer({"lr": 1.0, "epochs": 1, "seed": 7, "tta": False, "size": None}, DEFAULT))
    assert settings == {
        "lr": Setting(0.1, "flag"),
        "epochs": Setting(3, "from mine.yaml"),
        "seed": Setting(0, "from mine.yaml"),  # which is a value
        "tta": Setting(False, DEFAULT),
    }
    assert [name for name, setting in settings.items() if not setting.is_said] == ["tta"]
