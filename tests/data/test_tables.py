"""data.load of .csv and .tsv files."""

import numpy as np
import pytest
import torch

from aefast.data import DataError, load


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
