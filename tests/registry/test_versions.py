"""Names, numbers and references."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from holdfast.backends.ledger_sql import SqlLedger
from holdfast.core.errors import BadInput, Conflict, Damaged, NotFound
from holdfast.core.ports import Ledger, Objects
from holdfast.core.records import FieldSpec, FileRef, Package
from holdfast.registry import history, package, versions


def make(ledger: Ledger, name: str = "fraud", content: str = "c") -> int:
    return versions.create(ledger, name, content=content, run_id=None, at=1, actor="ann").version


def register_many(ledger: Ledger, count: int, threads: int) -> list[int]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda _: make(ledger), range(count)))


def test_parallel_registrations_leave_no_gap_and_no_duplicate(ledger: Ledger) -> None:
    assert sorted(register_many(ledger, 100, 16)) == list(range(1, 101))


@pytest.mark.soak
def test_a_thousand_parallel_registrations(ledger: Ledger) -> None:
    assert sorted(register_many(ledger, 1000, 32)) == list(range(1, 1001))


def test_a_number_is_never_given_twice(ledger: Ledger) -> None:
    assert (make(ledger), make(ledger)) == (1, 2)
    versions.delete(ledger, "fraud", 2, at=2, actor="ann")
    assert make(ledger) == 3
    versions.delete_model(ledger, "fraud", at=3, actor="ann")
    with pytest.raises(NotFound):
        versions.get(ledger, "fraud", 1)
    assert make(ledger) == 4


def test_references(ledger: Ledger) -> None:
    for content in ("a", "b"):
        make(ledger, content=content)
    assert versions.resolve(ledger, "fraud@1").content == "a"
    for reference in ("fraud", "fraud@latest", "models:/fraud/latest", "models:/fraud/2", "fraud@2"):
        assert versions.resolve(ledger, reference).version == 2
    with pytest.raises(NotFound, match="Production"):
        versions.resolve(ledger, "fraud@Production")
    with pytest.raises(NotFound) as caught:
        versions.resolve(ledger, "frod@1")
    assert "fraud" in (caught.value.hint or "")
    for nonsense in ("", "@1", "a@b@c", "fraud@", "a/b/c"):
        with pytest.raises(BadInput):
            versions.resolve(ledger, nonsense)


@pytest.mark.parametrize("name", ["", "  ", "a/b", "a:b", "a@b", "a\nb", "a\x00", "..", "x" * 257, None, 7])
def test_names_that_are_refused(ledger: Ledger, name: object) -> None:
    with pytest.raises(BadInput):
        versions.create_model(ledger, name, at=1, actor="ann")  # type: ignore[arg-type]


def test_a_prefix_of_a_name_is_another_name(ledger: Ledger) -> None:
    make(ledger, "fraud")
    make(ledger, "fraud2")
    make(ledger, "frau")
    assert [v.name for v in versions.list(ledger, "fraud")] == ["fraud"]


def test_tags_and_texts_can_be_forgotten_without_breaking_the_chain(ledger: Ledger) -> None:
    make(ledger)
    versions.set_tag(ledger, "fraud", 1, "owner", "ann@example.org", at=2, actor="ann")
    versions.set_tag(ledger, "fraud", None, "team", "risk", at=2, actor="ann")
    with pytest.raises(Conflict):
        versions.create_model(ledger, "fraud", at=2, actor="ann")
    change = history.of(ledger, "fraud")[-2]
    assert (change.what, change.after, change.version) == ("tag", "ann@example.org", 1)
    for key, _ in ledger.scan("texts"):
        with ledger.transaction() as tx:
            tx.delete("texts", key)
    assert history.of(ledger, "fraud")[-2].after == "[deleted]"
    assert ledger.verify() >= 4


def packaged(objects: Objects, data: bytes = b"model") -> Package:
    ref = FileRef(sha256=objects.put(data), size=len(data))
    field = FieldSpec(name="x", dtype="float64")
    return Package(
        name="fraud",
        format="onnx",
        task="binary",
        model_file="model/m.onnx",
        files={"model/m.onnx": ref},
        inputs=[field],
        request=[field],
        outputs=[field],
    )


def test_a_package_comes_back_as_it_was(objects: Objects, tmp_path: Path) -> None:
    made = packaged(objects)
    content = package.store(objects, made)
    assert package.load(objects, content) == made and package.store(objects, made) == content
    folder = package.unpack(objects, made, tmp_path / "out")
    assert package.unpack(objects, made, folder) == folder
    assert (folder / "model/m.onnx").read_bytes() == b"model"
    (folder / "model/m.onnx").chmod(0o644)
    (folder / "model/m.onnx").write_bytes(b"evil!")
    with pytest.raises(Damaged, match=r"m\.onnx"):
        package.unpack(objects, made, folder)


def test_a_package_without_its_bytes_is_refused(objects: Objects) -> None:
    made = packaged(objects)
    objects.delete(made.files["model/m.onnx"].sha256)
    with pytest.raises(NotFound, match=r"m\.onnx"):
        package.store(objects, made)


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "a/./b", "", "a\\b", "a\0b"])
def test_file_names_stay_inside(name: str) -> None:
    with pytest.raises(BadInput):
        package.check_file_name(name)


def test_a_signature_is_this_stores_over_this_content() -> None:
    signature = package.sign("c" * 64, b"k" * 32)
    assert package.signed_by("c" * 64, signature, b"k" * 32)
    assert not package.signed_by("d" * 64, signature, b"k" * 32)
    assert not package.signed_by("c" * 64, signature, b"x" * 32)


def test_two_openings_of_one_ledger_share_the_counter(ledger: Ledger, tmp_path: Path) -> None:
    other = SqlLedger(f"sqlite:///{tmp_path}/ledger.db")
    assert [make(ledger), make(other), make(ledger)] == [1, 2, 3]
    other.close()
