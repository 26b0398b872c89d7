"""What is kept by content: its manifest tells of it, and a make that fails leaves nothing."""

import errno

import pytest

from lightning_modules.common.made import made, manifest


def test_the_manifest_holds_the_key_the_sums_and_what_make_tells(tmp_path):
    def make(place):
        (place / "a.txt").write_text("a")
        return {"words": 1}

    folder = made(folder=tmp_path, key=["one", 2], make=make)
    found = manifest(folder)
    assert found["key"] == ["one", 2] and found["words"] == 1
    assert found["sha256"] == {"a.txt": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"}
    (folder / "a.txt").write_text("b")
    with pytest.raises(ValueError, match=r"a\.txt is damaged.*Delete the folder"):
        made(folder=tmp_path, key=["one", 2], make=make)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_and_nothing_is_left(tmp_path, number):
    def make(place):
        (place / "half").write_text("a")
        raise OSError(number, "no room")

    with pytest.raises(OSError, match="the disk is full .* bytes free.* nothing half-written is left"):
        made(folder=tmp_path, key={}, make=make)
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]


def test_another_error_stays_what_it_is(tmp_path):
    def make(place):
        raise FileNotFoundError("not a matter of room")

    with pytest.raises(FileNotFoundError, match="not a matter of room"):
        made(folder=tmp_path, key={}, make=make)
