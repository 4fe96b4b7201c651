"""Files that are not text in UTF-8 are called what they are."""

import bz2
import gzip
import io
import lzma
import zipfile

import pytest
import small
from glue_files import load_own, refusal

from fjt.data.glue import Task
from fjt.experiment import finished as finished_run
from fjt.experiment import new_texts

TABLE = "text,label\nfirst,a\nsecond,b\n"


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("table.csv", TABLE)
    return file.getvalue()


FORMS = {
    "UTF-16. Convert the file: iconv -f utf-16 ": TABLE.encode("utf-16"),
    "UTF-16. Convert the file: iconv -f utf-16le ": TABLE.encode("utf-16-le"),
    "UTF-16. Convert the file: iconv -f utf-16be ": TABLE.encode("utf-16-be"),
    "UTF-32. Convert the file: iconv -f utf-32 ": TABLE.encode("utf-32"),
    "compressed by gzip": gzip.compress(TABLE.encode()),
    "compressed by bzip2": bz2.compress(TABLE.encode(), 5),
    "compressed by xz": lzma.compress(TABLE.encode()),
    "a workbook or a ZIP archive": zipped(),
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 30\n",
    "byte 4 of the line (0xe9) is not UTF-8": "text,label\ncaf\u00e9,a\n".encode("latin1"),
}
RUN = small.double(finished_run.Run, task=Task("t", "classification", (), ()), pairs=False)


def first_part(path):
    return next(new_texts.read(RUN, new_texts.Source(str(path)), 0))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_a_file_of_another_form_is_called_by_its_name(form, suffix, tmp_path):
    path = tmp_path / f"table.{suffix}"
    path.write_bytes(FORMS[form])
    refusal(str(path), form, call=lambda: load_own(path, data__holdout=0.5))
    lines = path.rename(tmp_path / "lines.txt")
    refusal(str(lines), form, call=lambda: first_part(lines))


@pytest.mark.parametrize("start", ["BZhang wrote", "PAR1 is a receptor", "ARROW1 ", "SQLite format is", "PKs"])
def test_a_text_that_begins_as_a_form_is_named_is_text(tmp_path, start):
    path = tmp_path / "lines.txt"
    path.write_text(f"{start}\nsecond\n")
    assert first_part(path).text[0] == start


def test_a_text_that_holds_null_bytes_is_text(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"text,label\n\0\0\0,a\n\0,b\n")
    assert load_own(path, path)[1]["train"].text == ("\0\0\0", "\0")
