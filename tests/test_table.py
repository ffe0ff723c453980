from dataclasses import replace

import pytest

from diffiml_plugin.table import Table, as_code, for_markdown

TABLE = Table(["a_b", "figure"], [["x|y", "50% [0.1, 0.2]"], ["<z>", None]], "T_itle, 512×512", [(0, 1)])


def test_text_is_aligned():
    assert str(TABLE).splitlines() == ["a_b            figure", "x|y    50% [0.1, 0.2]", "<z>                 -"]


def test_numbers_stand_flush_right_and_words_left():
    rows = [["a", 0.5, "on", "+0.1 ± 0.02"], ["b", 12, "12 times", "-"]]
    rule = Table(["", "f", "how", "change"], rows).markdown().splitlines()[1]
    assert [cell.endswith(":") for cell in rule.strip("|").split("|")] == [False, True, False, True]
    assert str(Table(["", "f"], [["a", 0.5], ["b", 12]])).splitlines()[1:] == ["a   0.5000", "b       12"]


def test_markdown_keeps_bars_inside_their_cells():
    head, rule, *rows = TABLE.markdown().splitlines()
    assert head.split() == "| a_b | figure |".split() and set(rule) == {"|", "-", ":"} and rule.count("|") == 3
    assert [row.split() for row in rows] == [r"| x\|y | **50% [0.1, 0.2]** |".split(), "| &lt;z&gt; | - |".split()]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[y]: https://evil.example", r"[y]\: https://evil.example"),  # the place that `![x][y]` would show
        ("[a](b)", r"[a]\(b)"),
        (" # Approved", r"\# Approved"),
        ("```", r"\```"),
        ("C# is no. 5 [0.1, 0.2]: fine", r"C# is no. 5 [0.1, 0.2]\: fine"),
    ],
)
def test_markdown_of_any_text_shows_it(text, shown):
    assert for_markdown(text) == shown


def test_latex_escapes_and_carries_the_title():
    text = TABLE.latex()
    assert r"\textbf{T\_itle, 512$\times$512}" in text and r"a\_b" in text and r"\textbf{50\% [0.1, 0.2]}" in text
    assert [text.count(word) for word in (r"\begin{table}", r"\end{tabular}}", r"\end{table}")] == [1, 1, 1]


def test_html_escapes_and_keeps_intervals_on_one_line():
    text = TABLE.html()
    assert "<td>&lt;z&gt;</td>" in text and "<b>50% [0.1,\N{NO-BREAK SPACE}0.2]</b>" in text and "T_itle" not in text


def test_rows_of_cells_by_column_leave_gaps_empty():
    table = Table.of("row", {"one": {"a": 1}, "two": {"b": 2.5, "a": 0}})
    assert (table.head, table.rows) == (["row", "a", "b"], [["one", 1, None], ["two", 0, 2.5]])


@pytest.mark.parametrize(
    ("render", "shown"),
    [
        (str, "\n1 of <z>"),
        (Table.markdown, "\n\n1 of &lt;z&gt;"),
        (Table.latex, "}\n\\par\\smallskip 1 of"),
        (Table.html, '<p class="caption">1 of &lt;z&gt;</p>'),
    ],
)
def test_a_note_stands_below_in_every_form(render, shown):
    assert shown in render(replace(TABLE, note="1 of <z>")) and shown not in render(TABLE)


@pytest.mark.parametrize("render", [str, Table.markdown, Table.latex, Table.html])
def test_a_table_without_rows_is_its_head(render):
    assert "only" in render(Table(["only", "heads"], []))


@pytest.mark.parametrize("render", [str, Table.markdown, Table.latex, Table.html])
def test_no_text_of_a_cell_is_obeyed(render):
    spoilt = "<script>alert(1)</script> ![x](https://x.org/y.png) \x1b[31mred \u202e`a|b`\n| c"
    shown = render(Table([spoilt], [[spoilt]], spoilt, note=spoilt))
    assert "\x1b" not in shown and "\u202e" not in shown and "\n| c" not in shown
    if render in (Table.markdown, Table.html):
        assert "<script>" not in shown
    if render is Table.markdown:
        assert "](https" not in shown
        assert [line.replace(r"\|", "").count("|") for line in shown.splitlines()] == [2, 2, 2, 0, 0]


def test_code_stays_code():
    assert as_code("a `<b>` \x1b") == r"`a '<b>' \x1b`"
