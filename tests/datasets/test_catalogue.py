import pytest

from diffiml_plugin.datasets.catalogue import CATALOGUE, VARIANTS, find_entry, kind_of, known_variant
from diffiml_plugin.datasets.layouts import LAYOUTS
from diffiml_plugin.errors import DiffIMLError

TABLE_1 = """
CASIAv2           7491   5063 no  train train
FantasticReality 16592  19423 no  -     train
tamperedCOCO         0 799441 no  -     train
compRAISE        24462      0 no  -     train
CASIAv1            800    920 no  test  test
COVERAGE           100    100 no  test  test
Columbia           183    180 no  test  test
NIST16               0    564 no  test  test
IMD2020            414   2010 no  test  train
CocoGlide            0    512 yes test  test
AutoSplice           0   3621 yes test  test
"""


def test_it_holds_table_1():
    rows = [
        [
            entry.name,
            str(entry.authentic),
            str(entry.tampered),
            "yes" if entry.generative else "no",
            entry.mvss,
            entry.catnet,
        ]
        for entry in CATALOGUE
        if (entry.mvss, entry.catnet) != ("-", "-")
    ]
    assert rows == [line.split() for line in TABLE_1.strip().splitlines()]


def test_every_dataset_says_where_to_ask_and_can_be_prepared():
    assert all(entry.what and entry.licence and entry.source and entry.layout for entry in CATALOGUE)
    assert LAYOUTS.keys() == {entry.name for entry in CATALOGUE}


def test_names():
    for typed, meant in (("casiav2", "CASIAv2"), ("CASIA2.0", "CASIAv2"), ("tampCOCO", "tamperedCOCO")):
        assert find_entry(typed).name == meant
    assert all(find_entry(name) is entry for entry in CATALOGUE for name in entry.names)
    with pytest.raises(DiffIMLError, match="did you mean 'Columbia'"):
        find_entry("Colombia")


def test_names_tell_the_kind_where_their_authors_say_so():
    assert kind_of("CASIAv1", "/data/Tp/Sp_D_NNN_A_art0067_cha0071_0301.jpg") == "splice"
    assert kind_of("casia1", "Sp_S_CND_A_pla0016_pla0016_0196.jpg") == "copy_move"
    assert kind_of("CASIAv2", "Tp_S_NRN_S_N_pla20080_pla20080_01980.tif") == "copy_move"
    assert kind_of("MISD", "Sp_D_cha_00098_cha_00047_sec_00073_197.jpg") == kind_of("mine", "Sp_D_1.jpg") == ""


def test_variants_are_of_the_catalogue_and_say_their_rule():
    assert {variant.name for variant in VARIANTS} >= {"NIST16_1024", "IMD_20_1024", "tampCOCO_sp", "tampCOCO_bcmc"}
    assert all(find_entry(variant.of) and variant.rule for variant in VARIANTS)
    assert known_variant("nist16_1024").longest_side == 1024 and known_variant("NIST16") is None
