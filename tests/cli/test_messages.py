import logging
import sys
import warnings

import pytest
from tqdm import tqdm

from diffiml_plugin.cli.messages import messages_on_stderr


@pytest.mark.parametrize(("level", "word"), [("INFO", "note"), ("WARNING", "warning"), ("ERROR", "error")])
def test_each_level_has_its_word_and_its_line(level, word, capsys):
    with messages_on_stderr():
        logging.getLogger("diffiml_plugin.data.lists").log(getattr(logging, level), "100% of\n it")
    assert capsys.readouterr() == ("", f"{word}: 100% of it\n")


def test_only_the_packages_own_messages_are_shown(capsys):
    with messages_on_stderr():
        logging.getLogger("another").info("hello")
    assert not capsys.readouterr().err


def test_warnings_of_the_reader_of_images_are_not_shown():
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with messages_on_stderr():
            warnings.warn_explicit("Skipping tag 40001", UserWarning, "TiffImagePlugin.py", 1, "PIL.TiffImagePlugin")
            warnings.warn_explicit("hot", UserWarning, "x.py", 1, "another")
    assert [str(warning.message) for warning in shown] == ["hot"]


def test_a_library_configures_nothing(capsys):
    with messages_on_stderr():
        pass
    logger = logging.getLogger("diffiml_plugin")
    assert not logger.handlers and logger.level == logging.NOTSET and logger.propagate


def test_a_message_stands_above_the_bar(capsys):
    with messages_on_stderr(), tqdm(total=2, file=sys.stderr, disable=False) as bar:  # whatever TQDM_DISABLE says
        bar.update()
        logging.getLogger("diffiml_plugin.x").warning("hot")
    assert "\rwarning: hot\n" in capsys.readouterr().err


def test_nothing_that_is_shown_is_obeyed(capsys):
    with messages_on_stderr():
        print("a \x1b[2J\u202e\udcff\r", "b", sep="\n")
        logging.getLogger("diffiml_plugin.x").warning("c \x1b]0;title\x07")
    assert capsys.readouterr() == ("a \\x1b[2J\\u202e\\udcff\\r\nb\n", "warning: c \\x1b]0;title\\x07\n")
