from diffiml_plugin.cli.config_file import package_index
from diffiml_plugin.cli.main import main


def test_all_are_listed_with_verb_purpose_and_cost(capsys):
    assert main(["configs"]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    for line, entry in zip(lines, package_index(), strict=True):
        assert line.split()[:2] == [entry.name, entry.verb] and entry.about in line
        assert line.rstrip().endswith(f"  {entry.cost or '-'}")
    assert any(line.rstrip().endswith("  4 minutes, one CPU core") for line in lines)


def test_a_part_of_the_names_selects(capsys):
    assert main(["configs", "ablation/table5"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("ablation/table5#SegFormerIML  train")
    assert main(["configs", "nowhere"]) == 2
    assert "no configuration's name holds 'nowhere'" in capsys.readouterr().err
