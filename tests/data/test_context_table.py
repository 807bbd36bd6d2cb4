"""Context tables: what they hold, what is refused, and reading them beside images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.data import ContextTable, read_context, write_context
from pellucid.errors import PellucidError


def _table(count: int = 50, seed: int = 0) -> ContextTable:
    random = np.random.default_rng(seed)
    return ContextTable.from_columns({"thickness": random.gamma(10, 0.2, count), "slant": random.normal(size=count)})


def test_standardizing_gives_mean_0_and_sd_1_and_can_be_undone() -> None:
    table = _table()
    scale = table.scale()
    standardized = scale.standardize(table.values)
    assert standardized.dtype == torch.float32
    expected = (table.values.numpy() - table.values.numpy().mean(0)) / table.values.numpy().std(0)
    assert np.allclose(standardized.numpy(), expected, atol=1e-6)
    assert torch.allclose(scale.unstandardize(standardized), table.values, atol=1e-6)
    other = _table(seed=1)
    assert not torch.allclose(scale.standardize(other.values).mean(0), torch.zeros(2), atol=1e-3)


def test_columns_and_rows_are_chosen_with_their_files() -> None:
    files = [Path(f"{n}.png") for n in range(4)]
    table = ContextTable.from_columns({"a": [1, 2, 3, 4], "b": [5, 6, 7, 9]}, files)
    assert table.select(["b"]).values.tolist() == [[5], [6], [7], [9]]
    for rows in ([3, 1], torch.tensor([3, 1])):
        chosen = table.subset(rows)
        assert chosen.values.tolist() == [[4, 9], [2, 6]]
        assert chosen.files == (Path("3.png"), Path("1.png"))
    assert table.subset(table.column("a") > 2).files == (Path("2.png"), Path("3.png"))
    assert table.subset(slice(1, 2)).values.tolist() == [[2, 6]]
    replaced = table.with_columns({"b": 0.0, "a": torch.tensor([4, 3, 2, 1])})
    assert replaced.values.tolist() == [[4, 0], [3, 0], [2, 0], [1, 0]]
    assert table.column("b").tolist() == [5, 6, 7, 9]
    with pytest.raises(PellucidError, match=r"no context column 'c'.*a, b"):
        table.column("c")


def test_gaps_are_refused_with_their_place() -> None:
    with pytest.raises(PellucidError, match=r"2 missing or infinite values, the first at row 1, column 'a'"):
        ContextTable.from_columns({"a": [1, np.inf], "b": [1, np.nan]})
    with pytest.raises(PellucidError, match=r"y\.png, column 'a'"):
        ContextTable.from_columns({"a": [1, np.nan]}, [Path("x.png"), Path("y.png")])


def test_shapes_and_names_must_fit() -> None:
    with pytest.raises(PellucidError, match="equally long"):
        ContextTable.from_columns({"a": [1, 2], "b": [1]})
    with pytest.raises(PellucidError, match="2 columns"):
        ContextTable(("a", "b"), torch.zeros(3, 3))
    with pytest.raises(PellucidError, match="named 'a'"):
        ContextTable(("a", "a"), torch.zeros(3, 2))
    with pytest.raises(PellucidError, match="need names"):
        ContextTable((), torch.zeros(3, 0))
    with pytest.raises(PellucidError, match="2 rows for 1 files"):
        ContextTable(("a",), torch.zeros(2, 1), (Path("x"),))


def test_a_sound_table_passes_the_check_and_others_say_why_not() -> None:
    table = _table()
    table.check(at_least=50, images=50)
    with pytest.raises(PellucidError, match="50 rows for 51 images"):
        table.check(images=51)
    with pytest.raises(PellucidError, match=r"50 images.*too few; at least 100"):
        table.check(at_least=100)
    with pytest.raises(PellucidError, match="without any variation: 'slant'"):
        table.with_columns({"slant": 0.1}).check()
    with pytest.raises(PellucidError, match="without any variation: 'slant'"):
        table.with_columns({"slant": 0.1}).scale()


@pytest.mark.parametrize("factor", [1.0, -2.5])
def test_copies_of_a_column_are_refused_whatever_their_unit(factor: float) -> None:
    table = _table().with_columns({"slant": factor * _table().column("thickness") + 3})
    with pytest.raises(PellucidError, match=r"'thickness' and 'slant' are copies"):
        table.check()
    noisy = table.with_columns({"slant": table.column("slant") + 0.1 * _table().column("slant")})
    noisy.check()


def test_one_column_is_enough() -> None:
    _table().select(["slant"]).check()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a/one.png", "a/two.png", "b/three.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / "images" / name)
    return tmp_path / "images"


def _csv(folder: Path, text: str) -> Path:
    path = folder.parent / "context.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_are_matched_to_images_by_name_not_by_order(folder: Path) -> None:
    path = _csv(folder, "\ufefffile,age,note\nb/three.png,3,x\n./a/one.png,1,y\na/two.png,2.5,z\n")
    table = read_context(path, folder, columns=["age"])
    assert table.names == ("age",)
    assert table.column("age").tolist() == [1, 2.5, 3]
    assert table.files == tuple(folder / name for name in ("a/one.png", "a/two.png", "b/three.png"))


def test_a_table_without_folder_keeps_its_order(folder: Path) -> None:
    table = read_context(_csv(folder, "index,t,i\n0,3,4\n1,1,2\n"), columns=["i", "t"])
    assert (table.names, table.values.tolist(), table.files) == (("i", "t"), [[4, 3], [2, 1]], None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,age\na/one.png,1\na/two.png,2\n", r"1 of 3 images .* no row \(b/three.png"),
        ("file,age\na/one.png,1\na/two.png,2\nb/tree.png,3\n", r"line 4: no image 'b/tree.png'.*b/three.png"),
        ("file,age\na/one.png,1\na/one.png,2\nb/three.png,3\n", "line 3: a second row for 'a/one.png'"),
        ("file,age\na/one.png,1\na/two.png,\nb/three.png,3\n", "line 3, column 'age': the cell is empty"),
        ("file,age\na/one.png,1\na/two.png,old\nb/three.png,3\n", "line 3, column 'age': 'old' is not a number"),
        ("file,age\na/one.png,1\na/two.png,nan\nb/three.png,3\n", "missing or infinite"),
        ("file,age\na/one.png,1\na/two.png\nb/three.png,3\n", "line 3 has 1 cells, the header 2"),
        ("file,smokes\na/one.png,True\n", r"'True' is not a number; write a number for each value .*\(0 and 1\)"),
        ('file,age\na/one.png,"1,5"\n', "'1,5' has a decimal comma; write 1.5"),
        ("image,age\na/one.png,1\n", "no column 'file'; did you mean one of image, age"),
        ("filename,age\na/one.png,1\n", "no column 'file'; did you mean one of filename"),
        ("File,age\na/one.png,1\n", "no column 'file'; did you mean one of File"),
        ("file;age\na/one.png;1,5\n", "separated by semicolons, not by commas; save it with commas"),
        ("file\tage\na/one.png\t1\n", "separated by tabs, not by commas; save it with commas; or call it .tsv"),
        ('file,age\n"a/one.png,1\n', "not a row of a table"),
        ("file,age,age\na/one.png,1,2\n", "two context columns are named 'age'"),
        ("file\na/one.png\n", "need names"),
        ("file,age\n", "no rows"),
        ("", "no rows"),
    ],
)
def test_tables_that_do_not_fit_are_refused_with_the_line(folder: Path, text: str, message: str) -> None:
    path = _csv(folder, text)
    with pytest.raises(PellucidError, match=message) as caught:
        read_context(path, folder)
    assert str(caught.value).startswith(str(path))


def test_unknown_columns_and_unreadable_files_are_named(folder: Path) -> None:
    path = _csv(folder, "file,age\na/one.png,1\n")
    with pytest.raises(PellucidError, match="no column 'aeg'; did you mean one of age"):
        read_context(path, folder, columns=["aeg"])
    with pytest.raises(PellucidError, match="no column 'image'"):
        read_context(path, folder, columns=["age"], file_column="image")
    path.write_bytes(b"\xff\x00bad")
    with pytest.raises(PellucidError, match="save it as UTF-8"):
        read_context(path, folder)
    with pytest.raises(PellucidError, match="cannot be read"):
        read_context(folder / "missing.csv", folder)


def test_names_match_in_either_unicode_form(tmp_path: Path) -> None:
    composed, decomposed = "\u00e9.png", "e\u0301.png"
    for stored, written in [(composed, decomposed), (decomposed, composed)]:
        images = tmp_path / str(len(stored))
        images.mkdir()
        Image.new("L", (4, 4)).save(images / stored)
        path = _csv(images, f"file,a\u0302ge\n{written},3\n")
        assert read_context(path, images, columns=["\u00e2ge"]).files == (images / stored,)
    both = tmp_path / "both"
    both.mkdir()
    for name in (composed, decomposed):
        Image.new("L", (4, 4)).save(both / name)
    table = read_context(_csv(both, f"file,age\n{composed},1\n{decomposed},2\n"), both)
    assert {file.name: age for file, age in zip(table.files or (), table.column("age").tolist(), strict=True)} == {
        composed: 1,
        decomposed: 2,
    }


def test_encodings_that_say_what_they_are_are_read_and_others_are_refused(folder: Path) -> None:
    path = folder.parent / "context.csv"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_text("\u00e4ge\n4\n", encoding=encoding)
        assert read_context(path).names == ("\u00e4ge",)
    path.write_bytes("age,note\n4,s\u00fc\u00df\n".encode("latin-1"))
    with pytest.raises(PellucidError, match=r"line 2 is not UTF-8 \(byte 0xfc\).*Latin-1.*save it as UTF-8"):
        read_context(path, columns=["age"])
    path.write_bytes("age\n4\n".encode("utf-16-le"))
    with pytest.raises(PellucidError, match="UTF-16 without a byte order mark"):
        read_context(path)


def test_writing_and_reading_keeps_every_bit(folder: Path, tmp_path: Path) -> None:
    files = tuple(folder / name for name in ("a/one.png", "a/two.png", "b/three.png"))
    table = ContextTable.from_columns({"x": [0.1, 1 / 3, -1e-300], "y, or z": [1e20, 2, 3]}, files)
    write_context(table, tmp_path / "out.csv", folder=folder)
    again = read_context(tmp_path / "out.csv", folder)
    assert (again.names, again.files) == (table.names, files)
    assert torch.equal(again.values, table.values)
    plain = ContextTable(table.names, table.values)
    write_context(plain, tmp_path / "plain.csv")
    assert torch.equal(read_context(tmp_path / "plain.csv").values, table.values)
    with pytest.raises(PellucidError, match="not below the folder"):
        write_context(table, tmp_path / "out.csv", folder=folder / "a")
