"""Files that should be text in UTF-8 and are not: known by their first bytes, or by the first wrong one."""

from fjt.core.errors import UserError

START = 64  # bytes that `check` needs
_CONVERT = "Convert the file: iconv -f {} -t utf-8."
# {first bytes: (what the file is, remedy)}.  UTF-32 comes before UTF-16, whose mark its own begins with.
_FORMS = {
    b"\xff\xfe\0\0": ("UTF-32", _CONVERT.format("utf-32")),
    b"\0\0\xfe\xff": ("UTF-32", _CONVERT.format("utf-32")),
    b"\xff\xfe": ("UTF-16", _CONVERT.format("utf-16")),
    b"\xfe\xff": ("UTF-16", _CONVERT.format("utf-16")),
    b"\x1f\x8b": ("compressed by gzip", "Unpack it."),
    **{b"BZh%d1AY&SY" % level: ("compressed by bzip2", "Unpack it.") for level in range(1, 10)},
    b"\xfd7zXZ": ("compressed by xz", "Unpack it."),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "Unpack it."),
    b"PK\x03\x04": ("a workbook or a ZIP archive", "Save its table as CSV in UTF-8, or unpack it."),
    b"\xd0\xcf\x11\xe0": ("a workbook", "Save its table as CSV in UTF-8."),
    b"PAR1\x15": ("a Parquet file", "Give it the suffix .parquet."),
    b"ARROW1\0\0": ("an Arrow file", "Write its table as Parquet."),
    b"SQLite format 3\0": ("a database", "Write its table as CSV."),
    b"version https://git-lfs.github.com/spec/": ("a pointer of Git LFS", "Fetch the file: git lfs pull."),
}


def check(path: str, start: bytes) -> None:
    """Raises UserError for a file that cannot be text in UTF-8.

    Args:
        path: the file, for messages.
        start: its first START bytes, or fewer where it is shorter.

    Raises:
        UserError: it is of another encoding or form.
    """
    for form, (name, remedy) in _FORMS.items():
        if start.startswith(form):
            raise UserError(f"{path} is {name}. {remedy}")
    for half, name in ((start[1::2], "utf-16le"), (start[::2], "utf-16be")):  # Latin text without a mark
        if len(half) > 2 and not any(half):
            raise UserError(f"{path} is UTF-16. {_CONVERT.format(name)}")


def decode(line: bytes, place: str) -> str:
    """The text of a line.  Raises UserError, which begins with `place`, for one that is not UTF-8."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{place}: byte {error.start + 1} of the line (0x{line[error.start]:02x}) is not UTF-8. "
            "Convert the file, for example: iconv -f latin1 -t utf-8."
        ) from None


def broken(path: str) -> UserError:
    """The error that names the first line and byte of a file that are not UTF-8."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                decode(line, f"{path}:{number}")
            except UserError as error:
                return error
    return UserError(f"{path} is not UTF-8.")
