import io

from diffiml_plugin.cli import study as verb
from diffiml_plugin.cli.command_line import parse_arguments
from diffiml_plugin.files import write_text
from diffiml_plugin.reports import study as reports


def test_tables_are_shown_whatever_the_system_takes_text_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        reports, "study", lambda runs, folder, comparisons: write_text(folder / reports.TABLES, "0.5 \u00b1 0.1")
    )
    monkeypatch.setattr(io, "text_encoding", lambda encoding, level=2: encoding or "ascii")
    args = parse_arguments("benco study", verb, [str(tmp_path), "--output_dir", str(tmp_path / "out")])
    assert verb.run(args) == 0
    assert "0.5 \u00b1 0.1" in capsys.readouterr().out
