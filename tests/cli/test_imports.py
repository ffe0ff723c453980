import gc

import pytest

from diffiml_plugin.cli.imports import quick_imports


@pytest.fixture
def thawed():
    yield
    gc.unfreeze()


def test_no_garbage_is_collected_inside_and_none_of_it_looked_through_afterwards(thawed):
    before = gc.get_freeze_count()
    with quick_imports():
        assert not gc.isenabled()
        made = [[] for _ in range(10_000)]
    assert gc.isenabled() and gc.get_freeze_count() - before > len(made)


def test_garbage_is_collected_again_after_an_import_that_failed(thawed):
    with pytest.raises(ImportError), quick_imports():
        raise ImportError("no such module")
    assert gc.isenabled()
