"""Examples: taken with consent only, seen by their owner, kept within limits, and gone when deleted."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from patchd.client import Client
from patchd.daemon.api.example_schemas import CorrectionCreate
from patchd.daemon.api.schemas import TaskCreate
from patchd.daemon.cli.main import cli
from patchd.daemon.media_types import media_type
from patchd.daemon.recent_images import KEPT_S, MOST_BYTES, RecentImages
from patchd.policies.errors import (
    BadInputError,
    ForbiddenError,
    NotFoundError,
    PatchdError,
    StateError,
    TooLargeError,
)
from PIL import Image
from running import STEADY, RunningDaemon

NOBODY = 65534
PETS = TaskCreate(name="pets", labels=("cat", "dog"), resolutions=(64,))
SECRET_LABEL = "dog"


def picture(number: int, form: str = "PNG", side: int = 24) -> bytes:
    """An image like no other."""
    drawn = random.Random(number)
    image = Image.frombytes("RGB", (side, side), drawn.randbytes(side * side * 3))
    with io.BytesIO() as file:
        image.save(file, form)
        return file.getvalue()


class Policy:
    """A policy file in force, with a table of examples that a test may write anew."""

    def __init__(self, folder: Path, **keys: object) -> None:
        self.file = folder / "examples.toml"
        self.write(**keys)

    def write(self, **keys: object) -> None:
        table = "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items())
        self.file.write_text(f"{STEADY}\n[examples]\n{table}\n")


@contextmanager
def running(folder: Path, **keys: object) -> Iterator[tuple[RunningDaemon, Policy]]:
    policy = Policy(folder, **keys)
    with RunningDaemon(folder / "state", "--policy", str(policy.file)) as daemon:
        daemon.client.add_task(PETS)
        yield daemon, policy


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningDaemon, Policy]]:
    with running(tmp_path_factory.mktemp("examples"), consent=True) as both:
        yield both


@pytest.fixture
def daemon(pets: tuple[RunningDaemon, Policy]) -> RunningDaemon:
    """The module's daemon, whose policy gives consent, without an example."""
    pets[1].write(consent=True)
    use(*pets)
    pets[0].client.remove_examples("pets")
    return pets[0]


def use(daemon: RunningDaemon, policy: Policy) -> None:
    daemon.client.use_policy(path=policy.file)


def files(daemon: RunningDaemon) -> set[str]:
    return {path.stem for path in (daemon.state / "examples").rglob("*") if path.is_file()}


def ids(daemon: RunningDaemon) -> set[str]:
    return {example.id for example in daemon.client.examples("pets").examples}


@contextmanager
def somebody(daemon: RunningDaemon) -> Iterator[Client]:
    """A client of another user who may open the socket; only root can become one."""
    if os.geteuid() != 0:
        pytest.skip("only root can call as another user")
    daemon.socket.parent.chmod(0o755)
    daemon.socket.chmod(0o666)
    with Client(daemon.socket, retries=0) as client:
        os.seteuid(NOBODY)
        try:
            client.status()  # the connection keeps the user it was opened as
        finally:
            os.seteuid(0)
        yield client


def test_an_image_handed_over_is_kept_as_it_came_for_nobody_else_to_read(daemon: RunningDaemon) -> None:
    image = picture(1, "JPEG")
    added = daemon.client.add_example("pets", "cat", image)
    assert (added.label, added.source, added.part, added.bytes) == ("cat", "example", "train", len(image))
    assert added.expires_s == pytest.approx(added.added_s + 90 * 86400)
    file = daemon.state / "examples" / "pets" / f"{added.id}.bin"
    assert file.read_bytes() == daemon.client.example_image("pets", added.id) == image
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent, file.parent.parent)] == [
        0o600,
        0o700,
        0o700,
    ]
    listed = daemon.client.examples("pets")
    assert listed.examples == (added,)
    assert (listed.used, listed.images, listed.bytes) == (True, 1, len(image))
    assert daemon.client.status().examples.images == 1


def test_json_with_base64_is_taken_as_well_and_the_same_image_gets_the_newer_label(daemon: RunningDaemon) -> None:
    first = daemon.client.add_example("pets", "cat", picture(2))
    body = json.dumps({"label": "dog", "image": base64.b64encode(picture(2)).decode()}).encode()
    daemon.client.request("POST", "/v1/tasks/pets/examples", body=body)
    (known,) = daemon.client.examples("pets").examples
    assert (known.id, known.label, known.part) == (first.id, "dog", first.part)


def test_a_part_of_each_class_is_kept_to_judge_by(daemon: RunningDaemon) -> None:
    parts = [daemon.client.add_example("pets", "cat", picture(number)).part for number in range(12)]
    assert parts[:2] == ["train", "validation"]
    assert parts.count("validation") == 2
    assert daemon.client.add_example("pets", "dog", picture(20)).part == "train"


@pytest.mark.parametrize(
    ("label", "image", "error", "says"),
    [
        ("cow", picture(1), BadInputError, "Task 'pets' has no label 'cow'. Its labels: cat, dog."),
        ("cat", b"", BadInputError, "The 0 bytes sent are not an image"),
        ("cat", b"%PDF-1.7 and so on", BadInputError, "The 18 bytes sent are not an image"),
        ("cat", picture(3)[:-400], BadInputError, "truncated or broken"),
        ("cat", b"\xff\xd8\xff\xe0 not a photograph", BadInputError, "broken"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_in_one_sentence(
    daemon: RunningDaemon, label: str, image: bytes, error: type[PatchdError], says: str
) -> None:
    with pytest.raises(error, match=says):
        daemon.client.add_example("pets", label, image)
    assert ids(daemon) == files(daemon) == set()


def test_an_unknown_task_and_a_wrong_body_are_refused_in_one_sentence(daemon: RunningDaemon) -> None:
    with pytest.raises(NotFoundError, match="no task named 'birds'"):
        daemon.client.add_example("birds", "cat", picture(1))
    with pytest.raises(BadInputError, match="lacks the key 'image'"):
        daemon.client.request("POST", "/v1/tasks/pets/examples", body=b'{"label": "cat"}')
    with pytest.raises(BadInputError, match="The label is missing"):
        daemon.client.request("POST", "/v1/tasks/pets/examples", body=picture(1), content_type="image/png")
    with pytest.raises(BadInputError, match="either the request id of a prediction or an image"):
        daemon.client.request("POST", "/v1/tasks/pets/corrections", body=b'{"label": "cat"}')


class Gigabyte(bytes):
    """A body that says it is a gigabyte long and holds nothing yet."""

    def __len__(self) -> int:
        return 2**30


def test_a_body_of_a_gigabyte_is_refused_before_it_is_read(daemon: RunningDaemon) -> None:
    with pytest.raises(TooLargeError, match="The request body is 1073741824 bytes"):
        daemon.client.add_example("pets", "cat", Gigabyte(picture(1)))
    assert daemon.client.status().pid == daemon.pid


def test_a_correction_finds_the_image_of_an_earlier_prediction(
    daemon: RunningDaemon, photographs: dict[str, Path]
) -> None:
    image = photographs["flower"].read_bytes()
    request = daemon.client.infer("imagenet", image).request_id
    made = daemon.client.correct("imagenet", "goldfish", request=request)
    assert (made.source, made.label) == ("correction", "goldfish")
    assert daemon.client.example_image("imagenet", made.id) == image
    with pytest.raises(NotFoundError, match="is not remembered"):
        daemon.client.correct("imagenet", "goldfish", request="no-such-request")
    with pytest.raises(NotFoundError, match="of task 'pets' is not remembered"):
        daemon.client.correct("pets", "cat", request=request)
    sent_along = daemon.client.correct("pets", "cat", image=picture(4))
    assert sent_along.source == "correction"
    with somebody(daemon) as other, pytest.raises(NotFoundError, match="is not remembered"):
        other.correct("imagenet", "goldfish", request=request)
    assert daemon.client.remove_examples("imagenet").deleted == 1
    with pytest.raises(NotFoundError, match="is not remembered"):  # deleting all forgets the remembered as well
        daemon.client.correct("imagenet", "goldfish", request=request)


def test_a_user_sees_and_deletes_its_own_examples_and_an_administrator_all(daemon: RunningDaemon) -> None:
    mine = daemon.client.add_example("pets", "cat", picture(1))
    with somebody(daemon) as other:
        theirs = other.add_example("pets", "dog", picture(2))
        assert [example.id for example in other.examples("pets").examples] == [theirs.id]
        for refused in (other.example_image, other.remove_example):
            with pytest.raises(NotFoundError, match="no example"):
                refused("pets", mine.id)
        assert ids(daemon) == {mine.id, theirs.id}
        assert other.remove_examples("pets").deleted == 1
    assert ids(daemon) == files(daemon) == {mine.id}


def test_deleting_leaves_neither_file_nor_row_nor_a_word_in_the_database(daemon: RunningDaemon) -> None:
    kept = daemon.client.add_example("pets", "cat", picture(1))
    gone = [daemon.client.add_example("pets", SECRET_LABEL, picture(number)) for number in range(2, 6)]
    assert daemon.client.remove_example("pets", gone[0].id).deleted == 1
    with pytest.raises(NotFoundError, match="no example"):
        daemon.client.example_image("pets", gone[0].id)
    with pytest.raises(NotFoundError, match="no example"):
        daemon.client.remove_example("pets", gone[0].id)
    for example in gone[1:]:
        daemon.client.remove_example("pets", example.id)
    assert ids(daemon) == files(daemon) == {kept.id}
    for name in ("patchd.db", "patchd.db-wal"):
        data = (daemon.state / name).read_bytes()
        assert not [example.id for example in gone if example.id.encode() in data], name
    assert kept.id.encode() in (daemon.state / "patchd.db").read_bytes()


def patchctl(daemon: RunningDaemon, *arguments: str | Path) -> Result:
    runner = CliRunner(env={"COLUMNS": "100"})
    return runner.invoke(cli, ["--socket", str(daemon.socket), "examples", *map(str, arguments)], prog_name="patchctl")


def test_patchctl_hands_over_lists_writes_out_and_takes_back(daemon: RunningDaemon, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(2):
        (photos / f"{number}.png").write_bytes(picture(number))
    (photos / "broken.png").write_bytes(picture(2)[:-300])
    added = patchctl(daemon, "add", "pets", "--label", "cat", photos)
    assert added.exit_code == 5
    assert "broken.png: The PNG file is truncated or broken" in added.stderr
    assert "2 of 3 images are examples of 'cat' now." in added.stdout
    wrong = patchctl(daemon, "add", "pets", "--label", "cow", photos)
    assert (wrong.exit_code, wrong.stderr.count("\n")) == (5, 1)
    assert "has no label 'cow'. Its labels: cat, dog." in wrong.stderr
    corrected = patchctl(daemon, "correct", "pets", photos / "1.png", "--label", "dog", "--json")
    assert json.loads(corrected.stdout)["source"] == "correction"
    listed = patchctl(daemon, "list", "pets").stdout
    assert "2 of 1000 images" in listed
    assert "correction" in listed
    written = patchctl(daemon, "export", "pets", tmp_path / "backup")
    assert "2 examples written" in written.stdout
    (cat,) = (tmp_path / "backup" / "cat").iterdir()
    assert (cat.suffix, cat.read_bytes()) == (".png", picture(0))
    assert json.loads((tmp_path / "backup" / "examples.json").read_text())["images"] == 2
    assert patchctl(daemon, "rm", "pets", cat.stem).stdout == "1 examples of task 'pets' are deleted.\n"
    assert patchctl(daemon, "rm", "pets", "--all", "--json").stdout.count('"deleted":1') == 1
    assert patchctl(daemon, "rm", "pets").exit_code == 2
    assert ids(daemon) == set()


def test_removing_a_task_deletes_its_examples(daemon: RunningDaemon) -> None:
    daemon.client.add_task(PETS.model_copy(update={"name": "strays"}))
    daemon.client.add_example("strays", "cat", picture(1))
    daemon.client.remove_task("strays")
    assert not (daemon.state / "examples" / "strays").exists()
    assert daemon.client.status().examples.images == 0


def test_without_consent_nothing_is_taken_and_what_is_here_stays_but_is_not_used(
    daemon: RunningDaemon, pets: tuple[RunningDaemon, Policy], photographs: dict[str, Path]
) -> None:
    kept = daemon.client.add_example("pets", "cat", picture(1))
    request = daemon.client.infer("imagenet", photographs["flower"].read_bytes()).request_id
    pets[1].write(consent=False)
    use(*pets)
    for task, label, given in (("pets", "cat", {"image": picture(2)}), ("imagenet", "goldfish", {"request": request})):
        with pytest.raises(ForbiddenError, match="does not let applications hand over examples"):
            daemon.client.correct(task, label, **given)
    listed = daemon.client.examples("pets")
    assert (listed.used, [example.id for example in listed.examples]) == (False, [kept.id])
    assert daemon.client.status().examples.consent is False
    told = daemon.until(lambda: [e for e in daemon.client.events(limit=50).events if e.kind == "examples.consent"])
    assert "kept, but not used" in told[-1].message
    pets[1].write(consent=True)
    use(*pets)
    with pytest.raises(NotFoundError, match="is not remembered"):  # images are let go of with the consent
        daemon.client.correct("imagenet", "goldfish", request=request)
    assert daemon.client.remove_example("pets", kept.id).deleted == 1


def test_a_full_quota_refuses_or_lets_the_oldest_go(daemon: RunningDaemon, pets: tuple[RunningDaemon, Policy]) -> None:
    size = len(picture(0))
    pets[1].write(consent=True, most_images=3, most_bytes=10 * size)
    use(*pets)
    added = [daemon.client.add_example("pets", "cat", picture(number)).id for number in range(3)]
    with pytest.raises(StateError, match=r"has 3 examples of \d+ bytes; the policy keeps 3 of"):
        daemon.client.add_example("pets", "cat", picture(3))
    daemon.client.add_example("pets", "dog", picture(2))  # one that is here needs no place
    pets[1].write(consent=True, most_images=3, most_bytes=10 * size, when_full="drop_oldest")
    use(*pets)
    newest = daemon.client.add_example("pets", "cat", picture(3)).id
    assert ids(daemon) == files(daemon) == {*added[1:], newest}
    pets[1].write(consent=True, most_bytes=1024)
    use(*pets)
    with pytest.raises(TooLargeError, match="all examples of a task may have 1024"):
        daemon.client.add_example("pets", "cat", picture(4))


def test_what_has_expired_is_neither_shown_nor_used_and_deleted_at_the_next_clean_up(tmp_path: Path) -> None:
    with running(tmp_path, consent=True) as (daemon, policy):
        old = daemon.client.add_example("pets", "cat", picture(1))
        policy.write(consent=True, keep_days=1e-6)
        use(daemon, policy)
        daemon.until(lambda: not ids(daemon))
        assert files(daemon) == {old.id}
        with pytest.raises(NotFoundError, match="no example"):
            daemon.client.example_image("pets", old.id)
        policy.write(consent=True, keep_days=3000)  # a longer time does not count for what is here already
        use(daemon, policy)
        assert daemon.client.examples("pets").examples[0].expires_s == old.expires_s
        policy.write(consent=True, keep_days=1e-6)
        use(daemon, policy)
        daemon.stop()
        daemon.start()  # the clean-up of every hour is that of the start
        assert files(daemon) == set()
        assert daemon.client.status().examples.images == 0


def test_a_daemon_killed_at_any_moment_keeps_what_it_confirmed_and_nothing_that_it_deleted(tmp_path: Path) -> None:
    with running(tmp_path, consent=True) as (daemon, _):
        daemon.client.add_example("pets", "cat", picture(0))  # starts the worker that decodes
        added, deleted, number = {}, set(), 1
        for round_ in range(3):
            pause = random.Random(round_).uniform(0.02, 0.3)
            killer = threading.Timer(pause, daemon.process.kill)
            killer.start()
            client = Client(daemon.socket, retries=0)
            in_hand: str | None = None
            try:
                while True:
                    number += 1
                    image = picture(number)
                    made = client.add_example("pets", "dog", image).id
                    added[made] = image
                    if number % 2:
                        in_hand = made
                        client.remove_example("pets", made)
                        in_hand = None
                        deleted.add(made)
            except PatchdError:
                pass
            killer.join()
            daemon.process.wait()
            daemon.client.close()
            client.close()
            daemon.start()
            here = ids(daemon)
            assert here == files(daemon)
            assert not here & deleted
            assert added.keys() - deleted - {in_hand} <= here
            if in_hand is not None and in_hand not in here:
                deleted.add(in_hand)
            for known in here & added.keys():
                assert daemon.client.example_image("pets", known) == added[known]
        daemon.kill()
        lost, *kept = here
        folder = daemon.state / "examples" / "pets"
        (folder / f"{lost}.bin").unlink()
        (folder / "ex-0123456789ab.bin").write_bytes(picture(5))  # as between a file and its row
        (folder / ".half.tmp").write_bytes(b"half")
        daemon.start()
        assert ids(daemon) == files(daemon) == set(kept)


def test_remembered_images_are_bounded_in_size_and_time_and_go_with_the_consent() -> None:
    now_s, consent = 0.0, True
    recent = RecentImages(lambda: consent, lambda: now_s)
    for number in range(20):
        recent.put(f"r{number}", "pets", bytes(MOST_BYTES // 8), 0)
    assert [number for number in range(20) if recent.find(f"r{number}")] == list(range(12, 20))
    recent.put("large", "pets", bytes(MOST_BYTES + 1), 0)
    assert recent.find("large") is None
    recent.put("other", "birds", b"1", 0)
    recent.forget_task("pets")
    assert recent.find("r19") is None
    assert recent.find("other") is not None
    now_s = KEPT_S + 1
    assert recent.find("other") is None
    recent.put("last", "pets", b"1", 0)
    consent = False
    assert recent.find("last") is None
    consent = True
    assert recent.find("last") is None


def test_the_media_type_is_told_by_the_first_bytes() -> None:
    found = [media_type(picture(1, form)) for form in ("JPEG", "PNG", "WEBP", "BMP")]
    assert found == ["image/jpeg", "image/png", "image/webp", "image/bmp"]
    assert media_type(b"GIF89a") is None


def test_a_correction_names_exactly_one_image() -> None:
    for given in ({}, {"request": "r1", "image": "AAAA"}):
        with pytest.raises(ValueError, match="either the request id of a prediction or an image"):
            CorrectionCreate.model_validate({"label": "cat", **given})
