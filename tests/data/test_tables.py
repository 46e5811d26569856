"""data.load of .csv and .tsv files."""

import re

import numpy as np
import pytest
import torch

from aefast.data import DataError, layout, load


@pytest.fixture
def write(tmp_path):
    """Writes text; the value is the source."""

    def save(text, name="x.csv"):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(tmp_path / name)

    return save


@pytest.mark.parametrize(
    "text",
    [
        "1,2.5\n-3,4e1\n",
        "1,2.5\n-3,4e1",
        "1,2.5\r\n-3,4e1\r\n",
        "height,width\n1,2.5\n-3,4e1\n",
        "\n,width\n\n1, 2.5\n\n-3,4e1\n\n",
        '"height","wi,dth"\n"1","2.5"\n"-3",4e1\n',
        "\ufeff1,2.5\n-3,4e1\n",
    ],
)
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_numbers_are_read_with_or_without_a_header(text, ending, write):
    if ending == "tsv":
        text = text.replace(",", "\t")
    data = load(write(text, f"x.{ending}"))
    assert isinstance(data.rows, np.memmap)
    assert (data.sample_shape, data.scale, data.low, data.high) == ((2,), 1, -3, 40)
    assert torch.equal(data.take(torch.arange(2)), torch.tensor([[1, 2.5], [-3, 40]]))


def test_numbers_are_rounded_once_to_float32(write):
    numbers = np.random.default_rng(0).standard_normal((5, 3))
    data = load(write("\n".join(",".join(map(repr, row)) for row in numbers.tolist())))
    assert np.array_equal(data.rows, numbers.astype(np.float32))


@pytest.mark.parametrize("fault", ["red", "", "1;2", "0x1", "nan", "-inf", "1e39", "1e999", "1_0"])
@pytest.mark.parametrize("header", ["", "a,b,c\n"])
def test_a_field_that_is_not_a_finite_number_is_refused_by_line_and_column(fault, header, write):
    line = 2 + bool(header)
    with pytest.raises(
        DataError, match=rf"x\.csv: line {line}, column 2: '{fault}'; it takes finite float32"
    ):
        load(write(f"{header}1,2,3\n1,{fault},3\n1,2,3\n"))


def test_a_first_line_with_one_number_is_no_header(write):
    with pytest.raises(DataError, match=r"line 1, column 1: 'red'"):
        load(write("red,2,3\n1,2,3\n"))


def test_a_first_line_of_the_columns_numbers_from_0_is_a_header(write):
    assert len(load(write("0,1,2\n4,5,6\n"))) == 1
    assert len(load(write("0,1,3\n4,5,6\n"))) == 2
    assert len(load(write("0,1.0,2\n4,5,6\n"))) == 2
    assert len(load(write("4,5,6\n0,1,2\n"))) == 2


def test_a_ragged_line_is_refused(write):
    with pytest.raises(DataError, match=r"line 3: 2 columns, where the first line has 3$"):
        load(write("1,2,3\n1,2,3\n1,2\n"))


@pytest.mark.parametrize("text", ["", "\n\n", "a,b\n"])
def test_a_table_without_numbers_is_refused(text, write):
    with pytest.raises(DataError, match=r"x\.csv: it holds no line of numbers$"):
        load(write(text))


def test_a_field_that_never_ends_is_refused(write):
    with pytest.raises(DataError, match=r"x\.csv: line 2: field larger than field limit"):
        load(write("1,2\n" + "3" * 200_000))


def test_what_is_not_text_is_refused(write):
    with pytest.raises(DataError, match=r"x\.csv: after line \d+: not UTF-8 text$"):
        load(write(b"1,2\n\xff\xfe,3\n"))
    with pytest.raises(DataError, match=r"x\.csv: line 2"):
        load(write(b"1,2\n\0,3\n"))


COUNTED = ["idx", "row", "Row_ID", "rowid", "row_number", "No", "no.", "nr", "number", "obs"]
COUNTED += ["sample", "sample_id"]


def table(source):
    data = load(source)
    return data.rows.tolist(), data.notes


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a;b\n7.5;1\n8;2.5\n", [[7.5, 1], [8, 2.5]]),
        ("a;b\n1,5;2,25\n3;-4,75e1\n", [[1.5, 2.25], [3, -47.5]]),
        ("1,5\t2\n3,5\t4\n", [[1.5, 2], [3.5, 4]]),
        ("1|2\n3|4\n", [[1, 2], [3, 4]]),
        (" 1.5  2.5 \n 3.5 4.5\n", [[1.5, 2.5], [3.5, 4.5]]),
        ("# exported\na,b\n#1,2\n1,2\n  # 9\n3,4\n", [[1, 2], [3, 4]]),
        ('"a;b", "c"\n1, "2"\n3,4\n', [[1, 2], [3, 4]]),
        ("1.5\n2.5\n", [[1.5], [2.5]]),
        ("sep=\t\n1.5\t2\n", [[1.5, 2]]),
        ('"sep=;"\na;b\n1,5;2\n', [[1.5, 2]]),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_the_delimiter_and_the_decimal_mark_are_found(text, rows, ending, write):
    assert table(write(text, f"x.{ending}")) == (rows, ())


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (",a,b\n0,0.5,0.25\n1,0.125,0.75\n", [[0.5, 0.25], [0.125, 0.75]]),
        (",a\n7,0.5\n7,0.25\n", [[0.5], [0.25]]),
        (",a\nred,0.5\nblue,0.25\n", [[0.5], [0.25]]),
        (",0,1\n0,0.5,0.25\n", [[0.5, 0.25]]),
        (",400,410\n0,0.5,0.25\n", [[0.5, 0.25]]),
        ("0,1,2\n5,0.5,0.25,1\n6,0.5,0.25,2\n", [[0.5, 0.25, 1], [0.5, 0.25, 2]]),
        ("Unnamed: 0.1,Unnamed: 0,a\n4,0,0.5\n9,1,0.25\n", [[0.5], [0.25]]),
        ("index,a\n4,0.5\n9,0.25\n", [[0.5], [0.25]]),
        ("Id;a\n1;0,5\n2;0,25\n3;1\n", [[0.5], [0.25], [1]]),
        *((f"{name},a\n0,0.5\n1,0.25\n2,1\n", [[0.5], [0.25], [1]]) for name in COUNTED),
        ('"","V1"\n"1",0.5\n"2",0.25\n', [[0.5], [0.25]]),
        ('"V1" "V2"\n"1" 0.5 0.25\n"2" 1 2\n', [[0.5, 0.25], [1, 2]]),
        ("0,0.5\n1,0.25\n2,1\n", [[0.5], [0.25], [1]]),
        (",a\n0.5,1\n1.5,2\n9,3\n", [[1], [2], [3]]),
        (",a\n2020-01-01,1\n2020-01-02,2\n", [[1], [2]]),
        (",,a\n0,0,1.5\n0,1,2.5\n", [[1.5], [2.5]]),
        ('sep=;\n"";"V1"\n"1";0,5\n"2";0,25\n', [[0.5], [0.25]]),
        ("id,a\n1.0,0.5\n2.0,0.25\n3.0,1\n", [[0.5], [0.25], [1]]),
        ("id;a\n0,0;0,5\n1,0;0,25\n2,0;1,0\n", [[0.5], [0.25], [1]]),
        ("0e0,0.5\n1e0,0.25\n2e0,1\n", [[0.5], [0.25], [1]]),
        (",a\n7.0,0.5\n7.0,0.25\n", [[0.5], [0.25]]),
    ],
)
def test_names_and_numbers_of_rows_are_left_out_and_said(text, rows, write):
    source = write(text)
    actual, notes = table(source)
    assert actual == rows
    assert re.fullmatch(
        f"{source}: its first (column names|2 columns name) the rows: left out", notes[-1]
    )


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a,b\n0,0.5\n1,0.25\n2,1\n", [[0, 0.5], [1, 0.25], [2, 1]]),  # it has a name
        ("0,0.5\n1,0.25\n3,1\n", [[0, 0.5], [1, 0.25], [3, 1]]),  # it skips one
        ("0,0.5\n1,0.25\n", [[0, 0.5], [1, 0.25]]),  # two rows prove nothing
        ("index\n0\n1\n", [[0], [1]]),  # all that there is
        ("id,a\n1.0,0.5\n2.5,0.25\n3.0,1\n", [[1, 0.5], [2.5, 0.25], [3, 1]]),
        ("id,a\n1.0,0.5\n2.0,0.25\n2.0,1\n", [[1, 0.5], [2, 0.25], [2, 1]]),
    ],
)
def test_a_column_of_numbers_is_no_index(text, rows, write):
    assert table(write(text)) == (rows, ())


def test_a_column_without_a_name_that_names_no_rows_is_read_and_said(write):
    source = write(",a\n1,2.5\n-3,4\n")
    note = f"{source}: its first column has no name, and is read: its numbers name no rows"
    assert table(source) == ([[1, 2.5], [-3, 4]], (note,))


WIDE = [0.5, 1, 2, 4, 8, 16, 32, 64]


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("1,2,3\n0.5,0.25,1\n", [0.5, 0.25, 1]),
        ("0,1\n0.5,1.5\n", [0.5, 1.5]),
        (f"{','.join(str(400 + 2.5 * i) for i in range(8))}\n{str(WIDE)[1:-1]}\n", WIDE),
    ],
)
def test_numbers_that_name_columns_are_left_out_and_said(text, row, write):
    source = write(text)
    note = f"{source}: its first line counts the columns, and is no sample"
    assert table(source) == ([row], (note,))


@pytest.mark.parametrize("text", ["1,2,3\n4,5,6\n", "0,1\n1,1.5\n", "2,4,6\n0.5,1.5,9\n"])
def test_numbers_that_may_be_a_sample_are_one(text, write):
    assert len(load(write(text))) == 2


def test_a_name_may_hold_a_lines_end(write):
    assert table(write('"a\nb",c\n1,2\n')) == ([[1, 2]], ())


@pytest.mark.parametrize("comment", ["% 3 columns", "// table"])
def test_other_comments_are_no_names(comment, write):
    with pytest.raises(DataError, match="line 2: 2 columns, where the first line has 1"):
        load(write(f"{comment}\n1,2\n3,4\n"))


@pytest.mark.parametrize("missing", ["", "NA", "NaN", " null ", "?", "<NA>", "#N/A"])
def test_a_missing_value_is_called_one(missing, write):
    with pytest.raises(DataError, match=r"line 3, column 2: .* and no missing value$"):
        load(write(f",a,b\n0,1.5,2\n1,{missing},2\n"))


@pytest.mark.parametrize(
    ("line", "fault"), [("#N/A\t2", "#N/A"), (" #DIV/0!\t2", "#DIV/0!"), ("\t", ""), ("\t2", "")]
)
def test_a_line_of_what_is_missing_is_no_comment_and_not_blank(line, fault, write):
    with pytest.raises(DataError, match=rf"line 3, column 1: '{re.escape(fault)}'; it takes"):
        load(write(f"a\tb\n1\t2\n{line}\n3\t4\n", "x.tsv"))


@pytest.mark.parametrize("first", ["1,5", "1.5"])
def test_two_decimal_marks_are_refused(first, write):
    second = {"1,5": "1.5", "1.5": "1,5"}[first]
    with pytest.raises(
        DataError, match=f"line 3, column 2: '{second}', where '{first}' has another decimal mark$"
    ):
        load(write(f"a;b\n{first};2\n3;{second}\n"))


def test_a_short_first_line_without_row_names_is_a_ragged_line(write):
    with pytest.raises(DataError, match=r"line 2: 3 columns, where the first line has 2$"):
        load(write("a,b\n0.5,1,2\n"))


def test_a_line_without_an_end_is_not_read_whole(write, monkeypatch):
    monkeypatch.setattr(layout, "LARGEST_LINE", 20)
    with pytest.raises(DataError, match=r"line 2 has more than 20 characters$"):
        load(write("1,2\n" + "3," * 20))


def test_what_a_field_holds_reaches_the_message_cut_and_escaped(write):
    with pytest.raises(DataError) as caught:
        load(write("1,2\n3,\x1b[31m" + "x" * 500 + "\n"))
    assert "\\x1b[31m" in str(caught.value)
    assert len(str(caught.value)) < 300
