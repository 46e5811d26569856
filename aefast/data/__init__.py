"""Data for training: any source as rows of numbers, and its shuffled minibatches.

What is read, and how:

================  ================================================================================
source            what is read, and how
================  ================================================================================
digits            scikit-learn's 1797 handwritten digits, 8x8, divided by 16
x.npy             an array ``[N, ...]`` of bool, integers or floats, mapped; .npy 1.0 and 2.0
x.npz             its only array, or ``x.npz:name``; a scipy.sparse matrix is refused
IDX               MNIST's format: ``*.idx``, ``*-ubyte``, ``*.gz``, or any name with its magic
x.csv, x.tsv      a sample a line, as float32; UTF-8, 2**24 characters a line at most
a folder          an image a sample, sorted by path; without images, shards
x.safetensors     a shard: its only tensor of float16, bfloat16 or float32 with 2 dimensions or more
shards            .safetensors and .npy (float16, float32), sorted by path, mapped: rows of one
                  width, the last dimension of each file; all before it count as rows
shards: order     blocks of 4 MB come in random order, and 64 of them are shuffled together: a
                  buffer whose order is a function of the seed and the epoch alone
any: shape        samples are flattened, ``sample_shape`` remembers how; 2 to 32 dimensions: one
                  is refused as labels
any: scale        uint8 is divided by 255, unless it holds 0 and 1 alone; all else by 1
any: not finite   refused by row and column, and so is what is beyond float32
any: objects      refused: nothing is ever unpickled; pipes and devices are refused, too
any: memory       a file as it lies is mapped. What is compressed, text, images or in Fortran
                  order goes to a temporary file in ``TMPDIR``, which is mapped: no byte past what
                  the header promises, and none where there is no space for that
table: delimiter  found by looking: tab, semicolon, comma, ``|`` or blanks; quotes are ``"``
table: decimals   a comma may be the decimal mark where none divides columns; one mark a table
table: comment    a line that begins with ``#``: left out, as blank lines are
table: header     left out: a first line without a number; 0, 1, ..., D - 1, or 1, 2, ..., D, for
                  D > 2 (the latter, and 0, 1, over fractions alone); numbers after an empty first
                  field; 8 or more that rise in even steps, over others. Excel's ``sep=;``, too
table: index      left out: a first column without a name (also ``Unnamed: 0``, ``index``,
                  ``level_0``, ``rownames``, or under a header one column short) of natural
                  numbers, of text, or of 3 or more numbers that rise; one without a header, or
                  named ``id``, ``idx``, ``row``, ``row_id``, ``rowid``, ``row_number``, ``no``,
                  ``no.``, ``nr``, ``number``, ``obs``, ``sample`` or ``sample_id``, that counts 3
                  rows or more from 0 or 1. ``1.0`` is a natural number, too
table: missing    refused by line and column: an empty field, NA, NaN, null; and so is text
folder: images    .png .jpg .jpeg .jpe .jfif .bmp .gif .tif .tiff .webp .pgm .ppm .pbm .pnm, by
                  content; of an animation the first picture
folder: not read  names that begin with a dot; ``__MACOSX``, ``Thumbs``, ``@eaDir``,
                  ``$RECYCLE.BIN``, ``System Volume Information``; files of other names
folder: links     linked images and folders are read; a folder that is reached twice, once
folder: turns     EXIF's orientation is applied
folder: kinds     all 8-bit grey or all RGB: black and white is grey, 0 and 255, a palette RGB;
                  alpha, transparent colors, 16 bits and CMYK are refused
folder: sizes     one for all, 2**24 pixels at most, looked at before any is decoded
================  ================================================================================

What is left out of a table, and that uint8 is not divided, is a line in ``Dataset.notes``; the
``aefast`` command prints them.
"""

from aefast.data.dataset import DataError, Dataset
from aefast.data.minibatches import batches
from aefast.data.sources import load

__all__ = ["DataError", "Dataset", "batches", "load"]
