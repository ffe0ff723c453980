from diffiml_plugin.training.log import LOG, Log


def test_a_resumed_log_drops_what_is_made_anew_and_what_was_cut_short(tmp_path):
    log = Log(tmp_path, "step")
    for step in range(4):
        log.add({"step": step})
    with open(tmp_path / LOG, "a") as file:
        file.write('{"st')
    Log(tmp_path, "step", first=2).add({"step": 2, "again": True})
    assert (tmp_path / LOG).read_text() == '{"step": 0}\n{"step": 1}\n{"step": 2, "again": true}\n'


def test_a_new_log_is_empty(tmp_path):
    (tmp_path / LOG).write_text('{"epoch": 0}\n')
    Log(tmp_path, "epoch")
    assert (tmp_path / LOG).read_text() == ""
