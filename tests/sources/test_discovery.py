from __future__ import annotations

import contextlib
import inspect
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from pipeline.errors import SourceError
from pipeline.sources.discovery import absolute, find_videos, read_list
from pipeline.sources.image_sequence import image_files, is_image_sequence, source_exists
from tests.videos import draw_number, write_images, write_video

NOBODY = 65534


@pytest.fixture(scope="module")
def video_bytes(tmp_path_factory):
    """A real video, small."""
    return write_video(tmp_path_factory.mktemp("video") / "v.mp4", 3).read_bytes()


def put(path, content=b"content"):
    """Write a file, by default with its name as its content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if content != b"content" else os.fsencode(path.name))
    return path


def names(videos):
    return [os.path.basename(video.path) for video in videos]


def find(*sources, **options):
    return find_videos([str(source) for source in sources], **options)


class TestFiles:
    def test_any_file_name_is_accepted(self, tmp_path):
        path = put(tmp_path / "no suffix", b"0123")

        (video,) = find(path)

        assert (video.path, video.location, video.kind) == (str(path), str(path), "file")
        assert (video.size_bytes, video.failure, video.copies) == (4, None, ())
        assert len(video.video_id) == 32

    def test_a_relative_path_is_shown_as_it_was_given(self, tmp_path, monkeypatch):
        put(tmp_path / "sub" / "a.mp4")
        monkeypatch.chdir(tmp_path)

        (video,) = find("sub/a.mp4")

        assert video.path == "sub/a.mp4"
        assert video.location == str(tmp_path / "sub" / "a.mp4")
        assert absolute("sub/a.mp4") == video.location

    def test_a_tilde_is_the_home_folder(self, tmp_path, monkeypatch):
        put(tmp_path / "a.mp4")
        monkeypatch.setenv("HOME", str(tmp_path))

        assert find("~/a.mp4")[0].location == str(tmp_path / "a.mp4")
        assert find("~/*.mp4")[0].location == str(tmp_path / "a.mp4")
        assert absolute("~/a.mp4") == str(tmp_path / "a.mp4")

    def test_a_name_may_begin_with_a_tilde(self, tmp_path, monkeypatch):
        put(tmp_path / "~backup.mp4")
        monkeypatch.chdir(tmp_path)

        assert names(find("~backup.mp4")) == ["~backup.mp4"]

    def test_a_name_may_look_like_a_glob(self, tmp_path):
        put(tmp_path / "take[1].mp4")
        put(tmp_path / "take1.mp4")

        assert names(find(tmp_path / "take[1].mp4")) == ["take[1].mp4"]

    def test_a_file_named_twice_is_one_video(self, tmp_path):
        path = put(tmp_path / "a.mp4")

        (video,) = find(path, tmp_path, tmp_path / "*.mp4", path)

        assert video.copies == ()

    def test_undecodable_names_are_escaped_and_still_found(self, tmp_path):
        location = os.path.join(os.fsencode(tmp_path), b"caf\xe9.mp4")
        with open(location, "wb") as file:
            file.write(b"01")

        for source in (tmp_path, os.fsdecode(location), tmp_path / "caf*"):
            (video,) = find(source)
            assert video.path.endswith("caf\\xe9.mp4")
            assert os.fsencode(video.location) == location
            assert (video.size_bytes, video.failure) == (2, None)

    def test_a_missing_source_fails(self, tmp_path):
        with pytest.raises(SourceError, match=r"no such file or folder: .*gone\.mp4"):
            find(tmp_path / "gone.mp4")

    def test_a_url_fails_without_its_secrets_in_the_message(self):
        with pytest.raises(SourceError, match=r"^http://host/a\.mp4 is a URL: fetch it first"):
            find_videos(["http://me:secret@host/a.mp4?token=secret"])

    def test_no_source_fails(self):
        with pytest.raises(SourceError, match="no videos given: name files, folders"):
            find_videos([])

    def test_an_empty_name_fails(self):
        """An unset shell variable must not mean the working directory."""
        with pytest.raises(SourceError, match="the name of a source is empty"):
            find_videos([""])


class TestFolders:
    def test_a_folder_is_walked_in_natural_order(self, tmp_path):
        for name in ("clip10.mp4", "clip2.mp4", "b/1.mkv", "b/deep/er/2.avi", "a.webm"):
            put(tmp_path / name)

        assert names(find(tmp_path)) == ["a.webm", "1.mkv", "2.avi", "clip2.mp4", "clip10.mp4"]

    @pytest.mark.parametrize("name", ["²1.mp4", "٣.mp4", "1²3.mp4", "00.mp4"])
    def test_any_digit_may_be_in_a_name(self, tmp_path, name):
        put(tmp_path / name)
        put(tmp_path / "1.mp4")

        assert set(names(find(tmp_path))) == {name, "1.mp4"}

    def test_hidden_files_and_folders_are_skipped(self, tmp_path):
        for name in ("a.mp4", ".b.mp4", ".cache/c.mp4", ".DS_Store"):
            put(tmp_path / name)

        assert names(find(tmp_path)) == ["a.mp4"]

    def test_a_hidden_folder_can_be_a_source(self, tmp_path):
        put(tmp_path / ".cache" / "c.mp4")

        assert names(find(tmp_path / ".cache")) == ["c.mp4"]

    def test_sidecars_are_skipped(self, tmp_path):
        put(tmp_path / "a.mp4")
        for suffix in ("txt", "CSV", "json", "srt", "wav", "md", "zip", "npy", "part"):
            put(tmp_path / f"a.{suffix}")

        assert names(find(tmp_path)) == ["a.mp4"]

    def test_files_of_other_programs_are_left_out_and_counted(self, tmp_path, caplog):
        for name in ("a.mp4", "b.dat", "c", "sub/d.dat", "notes.txt", ".hidden"):
            put(tmp_path / name)

        assert names(find(tmp_path)) == ["a.mp4"]
        (record,) = caplog.records
        assert record.message == (
            "3 files of other programs left out (.dat 2, without suffix 1); --strict gives each a "
            "row"
        )

    def test_strict_finds_files_with_unknown_suffixes(self, tmp_path, caplog):
        for name in ("a.mp4", "b.dat", "c", "d.xyz"):
            put(tmp_path / name)

        assert names(find(tmp_path, strict=True)) == ["a.mp4", "b.dat", "c", "d.xyz"]
        assert not caplog.records

    def test_a_file_that_is_named_is_never_left_out(self, tmp_path):
        put(tmp_path / "b.dat")
        (tmp_path / "list.txt").write_text("b.dat\n")

        assert names(find(tmp_path / "b.dat")) == ["b.dat"]
        assert names(find(tmp_path / "list.txt")) == ["b.dat"]
        assert names(find(tmp_path / "*.dat")) == ["b.dat"]

    def test_a_folder_with_other_files_only_names_them(self, tmp_path):
        put(tmp_path / "b.dat")

        with pytest.raises(SourceError, match=r"holds no videos; 1 file of other .* \(\.dat 1\)$"):
            find(tmp_path)

    def test_videos_with_any_suffix_are_found(self, tmp_path, video_bytes):
        put(tmp_path / "v", video_bytes)
        put(tmp_path / "w.0001", video_bytes + b"1")

        assert names(find(tmp_path)) == ["v", "w.0001"]

    def test_an_empty_or_damaged_video_is_found(self, tmp_path):
        (tmp_path / "empty.MKV").write_bytes(b"")
        put(tmp_path / "text.avi")

        assert names(find(tmp_path)) == ["empty.MKV", "text.avi"]

    def test_a_video_with_the_suffix_of_a_sidecar_is_found(self, tmp_path, video_bytes):
        put(tmp_path / "really.txt", video_bytes)
        put(tmp_path / "download.mp4.part", video_bytes + b"1")
        put(tmp_path / "notes.txt")

        assert names(find(tmp_path)) == ["download.mp4.part", "really.txt"]

    @pytest.mark.parametrize(
        ("head", "found"),
        [
            (b"\x00\x00\x00\x18ftypisom", True),
            (b"\x00\x00\x00\x18ftypM4A ", False),
            (b"\x1aE\xdf\xa3\x00\x00\x00\x00\x00\x00", True),
            (b"RIFF\x00\x00\x00\x00AVI LIST", True),
            (b"RIFF\x00\x00\x00\x00WAVEfmt ", False),
            (b"FLV\x01\x05", True),
            (b"0&\xb2u\x8ef\xcf\x11", True),
            (b"\x00\x00\x01\xba\x44", True),
            (b"", False),
        ],
    )
    def test_containers_are_recognized_by_their_first_bytes(self, tmp_path, head, found):
        put(tmp_path / "x.mp4")
        put(tmp_path / "y.txt", head)

        assert ("y.txt" in names(find(tmp_path))) is found

    def test_a_folder_without_videos_fails(self, tmp_path):
        put(tmp_path / "sub" / "notes.txt")

        with pytest.raises(SourceError, match=f"{tmp_path} holds no videos"):
            find(tmp_path)

    def test_links_are_followed_and_loops_are_detected(self, tmp_path):
        put(tmp_path / "videos" / "a.mp4")
        put(tmp_path / "elsewhere" / "b.mp4")
        (tmp_path / "videos" / "more").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "videos" / "again").symlink_to(tmp_path / "videos")
        (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "videos")
        (tmp_path / "videos" / "self").symlink_to("self")

        found = find(tmp_path / "videos")

        assert names(found) == ["a.mp4", "b.mp4", "self"]
        assert found[2].failure[0] == "unreadable"

    def test_folders_may_be_nested_deeper_than_the_recursion_limit(self, tmp_path):
        """With a low recursion limit: pytest could not remove thousands of nested folders."""
        depth, calls = 400, 200
        with contextlib.chdir(tmp_path):
            for _ in range(depth):
                os.mkdir("d")
                os.chdir("d")
            put(Path("a.mp4"))
        before = sys.getrecursionlimit()
        sys.setrecursionlimit(len(inspect.stack(0)) + calls)
        try:
            (video,) = find(tmp_path)
        finally:
            sys.setrecursionlimit(before)

        assert video.path == f"{tmp_path}/{'d/' * depth}a.mp4"
        assert video.failure is None

    def test_a_broken_link_is_a_missing_video(self, tmp_path):
        (tmp_path / "a.mp4").symlink_to("gone.mp4")

        (video,) = find(tmp_path)

        assert video.failure == ("missing", f"No such file or directory: {tmp_path}/a.mp4")
        assert video.size_bytes == 0

    def test_pipes_and_sockets_are_skipped(self, tmp_path):
        put(tmp_path / "a.mp4")
        os.mkfifo(tmp_path / "pipe.mp4")
        os.mkfifo(tmp_path / "pipe.txt")  # looked into, were it a file
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "socket"))

            assert names(find(tmp_path)) == ["a.mp4"]

    def test_a_pipe_as_source_is_an_unreadable_video(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.mp4")

        (video,) = find(tmp_path / "pipe.mp4")

        assert video.failure == ("unreadable", f"not a regular file: {tmp_path}/pipe.mp4")

    def test_a_device_is_an_unreadable_video(self, tmp_path):
        (tmp_path / "zero.mp4").symlink_to("/dev/zero")

        (video,) = find(tmp_path)

        assert video.failure[0] == "unreadable"


@pytest.fixture
def plain_user():
    """Run as a user to whom permissions apply, in a folder of that user."""
    folder = Path(tempfile.mkdtemp())
    root = os.geteuid() == 0
    if root:
        os.chown(folder, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        subprocess.run(["chmod", "-R", "u+rwx", folder], check=True)
        shutil.rmtree(folder)


class TestPermissions:
    def test_a_forbidden_file_is_an_unreadable_video(self, plain_user):
        put(plain_user / "a.mp4")
        put(plain_user / "b.mp4").chmod(0)

        a, b = find(plain_user)

        assert a.failure is None
        assert b.failure == ("unreadable", f"Permission denied: {plain_user}/b.mp4")

    def test_files_of_a_folder_that_may_only_be_listed_are_unreadable(self, plain_user):
        put(plain_user / "sub" / "a.mp4")
        (plain_user / "sub").chmod(0o444)

        (video,) = find(plain_user)

        assert video.failure == ("unreadable", f"Permission denied: {plain_user}/sub/a.mp4")

    def test_a_folder_that_cannot_be_listed_is_an_unreadable_video(self, plain_user):
        put(plain_user / "a.mp4")
        put(plain_user / "sub" / "b.mp4")
        put(plain_user / "z.mp4")
        (plain_user / "sub").chmod(0)

        a, sub, z = find(plain_user)

        assert (a.failure, z.failure) == (None, None)
        assert sub.failure == ("unreadable", f"Permission denied: {plain_user}/sub")

    def test_a_source_folder_that_cannot_be_listed_fails(self, plain_user):
        put(plain_user / "a.mp4")
        plain_user.chmod(0)

        with pytest.raises(SourceError, match=f"{plain_user} cannot be read: Permission denied"):
            find(plain_user)

    def test_two_unreadable_files_are_two_videos(self, plain_user):
        """Without content they are not copies of each other."""
        for name in ("a.mp4", "b.mp4"):
            put(plain_user / name, b"same").chmod(0)

        a, b = find(plain_user)

        assert a.video_id != b.video_id


class TestGlobs:
    @pytest.fixture
    def tree(self, tmp_path):
        for name in ("clip10.mp4", "clip2.mp4", "x.txt", "sub/a.mp4", "sub/deep/b.mp4", "sub/c.md"):
            put(tmp_path / name)
        return tmp_path

    def test_matches_come_in_natural_order(self, tree):
        assert names(find(tree / "clip*.mp4")) == ["clip2.mp4", "clip10.mp4"]
        assert names(find(tree / "clip[0-9].mp4")) == ["clip2.mp4"]

    def test_two_stars_match_any_depth(self, tree):
        found = names(find(tree / "**" / "*.mp4"))

        assert found == ["clip2.mp4", "clip10.mp4", "a.mp4", "b.mp4"]

    def test_a_folder_that_matches_is_walked(self, tree):
        assert names(find(tree / "s*")) == ["a.mp4", "b.mp4"]
        assert names(find(tree / "**")) == names(find(tree))

    def test_a_matching_file_may_have_any_suffix(self, tree):
        assert names(find(tree / "x*")) == ["x.txt"]

    def test_images_of_a_folder_that_matches_stay_one_sequence(self, tmp_path):
        write_images(tmp_path / "all" / "seq", [1, 2, 3])

        (video,) = find(tmp_path / "a*" / "**", image_fps=25)

        assert video.kind == "images"

    def test_no_match_fails(self, tmp_path):
        with pytest.raises(SourceError, match=r"no file matches .*\*\.mp4"):
            find(tmp_path / "*.mp4")

    def test_only_empty_folders_fail(self, tmp_path):
        (tmp_path / "empty").mkdir()

        with pytest.raises(SourceError, match=r"no file matches .*/e\*"):
            find(tmp_path / "e*")


class TestLists:
    @pytest.fixture
    def folder(self, tmp_path):
        for name in ("a.mp4", "sub/b.mp4", "0007"):
            put(tmp_path / name)
        return tmp_path

    @pytest.mark.parametrize("column", ["video", "path", "file", "filename"])
    @pytest.mark.parametrize("kind", ["csv", "parquet"])
    def test_paths_are_relative_to_the_list(self, folder, column, kind):
        table = pd.DataFrame({"n": [1, 2, 3], column: ["sub/b.mp4", None, str(folder / "a.mp4")]})
        listed = folder / f"list.{kind}"
        table.to_csv(listed, index=False) if kind == "csv" else table.to_parquet(listed)

        found = find(listed)

        assert [video.path for video in found] == ["sub/b.mp4", str(folder / "a.mp4")]
        assert found[0].location == str(folder / "sub" / "b.mp4")
        assert all(video.failure is None for video in found)

    def test_a_text_file_has_one_video_per_line(self, folder):
        listed = folder / "list.txt"
        listed.write_text("\nsub/b.mp4\n\n   \na.mp4\n")

        assert names(find(listed)) == ["b.mp4", "a.mp4"]

    def test_a_text_file_may_have_a_byte_order_mark_and_windows_line_ends(self, folder):
        listed = folder / "list.txt"
        listed.write_bytes("\ufeffa.mp4\r\nsub/b.mp4\r\n".encode())

        assert [video.failure for video in find(listed)] == [None, None]

    def test_a_text_file_may_hold_undecodable_names(self, folder):
        location = os.path.join(os.fsencode(folder), b"caf\xe9.mp4")
        with open(location, "wb") as file:
            file.write(b"01")
        (folder / "list.txt").write_bytes(b"caf\xe9.mp4\n")

        (video,) = find(folder / "list.txt")

        assert (video.path, video.size_bytes) == ("caf\\xe9.mp4", 2)

    def test_the_order_is_that_of_the_list(self, folder):
        (folder / "list.csv").write_text("video\nsub/b.mp4\na.mp4\n")

        assert names(find(folder / "list.csv")) == ["b.mp4", "a.mp4"]

    def test_names_of_digits_are_text(self, folder):
        (folder / "list.csv").write_text("video, score\n0007, 3\n")

        (video,) = find(folder / "list.csv")

        assert (video.path, video.failure) == ("0007", None)

    def test_spaces_after_commas_are_removed(self, folder):
        (folder / "list.csv").write_text("label, video\nx, sub/b.mp4\n")

        assert find(folder / "list.csv")[0].failure is None

    def test_a_video_that_is_not_there_is_missing(self, folder):
        (folder / "list.txt").write_text("a.mp4\ngone.mp4\n")

        a, gone = find(folder / "list.txt")

        assert a.failure is None
        assert gone.failure == ("missing", "No such file or directory: gone.mp4")

    def test_a_folder_in_a_list_is_an_image_sequence(self, folder):
        write_images(folder / "seq", [1, 2])
        (folder / "list.txt").write_text("seq\n")

        (video,) = find(folder / "list.txt", image_fps=10)

        assert (video.kind, video.image_fps) == ("images", 10)

    def test_names_may_use_the_home_folder(self, folder, monkeypatch):
        monkeypatch.setenv("HOME", str(folder))
        (folder / "sub" / "list.txt").write_text("~/a.mp4\n~odd.mp4\n")

        a, odd = find(folder / "sub" / "list.txt")

        assert a.location == str(folder / "a.mp4")
        assert odd.location == str(folder / "sub" / "~odd.mp4")

    def test_the_column_video_is_preferred(self, folder):
        (folder / "list.csv").write_text("path,video\nx,a.mp4\n")

        assert read_list(folder / "list.csv") == ["a.mp4"]

    def test_a_video_with_the_suffix_of_a_list_is_a_video(self, tmp_path, video_bytes):
        put(tmp_path / "really.csv", video_bytes)

        assert names(find(tmp_path / "really.csv")) == ["really.csv"]

    def test_a_list_without_the_column_fails(self, folder):
        (folder / "list.csv").write_text("name,label\na.mp4,x\n")

        with pytest.raises(SourceError, match="no column `video`, only: name, label"):
            find(folder / "list.csv")

    @pytest.mark.parametrize("name", ["NA", "null", "None", "1e5", "07.50"])
    def test_any_text_is_a_name(self, folder, name):
        put(folder / name)
        (folder / "list.csv").write_text(f"video,x\n{name},1\n")

        assert [video.failure for video in find(folder / "list.csv")] == [None]

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8-sig", "cp1252"])
    @pytest.mark.parametrize("name", ["list.txt", "list.csv", "list.tsv"])
    def test_any_common_encoding_is_read(self, folder, name, encoding):
        put(folder / "é.mp4")
        header = "" if name.endswith("txt") else "video\tx\n" if "tsv" in name else "video;x\n"
        (folder / name).write_bytes(f"{header}é.mp4\r\na.mp4\r\n".encode(encoding))

        assert [video.failure for video in find(folder / name)] == [None, None]

    def test_blanks_and_quotes_around_names_are_removed(self, folder):
        put(folder / " b.mp4")
        (folder / "list.txt").write_text('a.mp4 \n"sub/b.mp4"\t\nsub\\b.mp4\n b.mp4\n')

        found = find(folder / "list.txt")

        assert [video.path for video in found] == ["a.mp4", "sub/b.mp4", " b.mp4"]
        assert [video.failure for video in found] == [None] * 3

    def test_accents_may_be_composed_otherwise(self, folder):
        put(folder / "caf\u00e9.mp4")
        (folder / "list.txt").write_text("cafe\u0301.mp4\n")

        assert find(folder / "list.txt")[0].failure is None

    def test_a_text_file_may_be_a_table_with_tabs(self, folder):
        (folder / "list.txt").write_text("Video\tscore\na.mp4\t1\n")

        assert names(find(folder / "list.txt")) == ["a.mp4"]

    def test_a_list_of_one_column_may_hold_separators(self, folder):
        put(folder / "a,b;c.mp4")
        (folder / "list.csv").write_text("video\na,b;c.mp4\n")

        assert find(folder / "list.csv")[0].failure is None

    def test_a_folder_in_a_list_is_walked(self, folder):
        for name in ("ds/train/hug/c.mp4", "ds/test/d.mp4", "ds/notes.txt"):
            put(folder / name)
        write_images(folder / "ds" / "seq", [1, 2])
        (folder / "list.txt").write_text("ds\na.mp4\n")

        found = find(folder / "list.txt", image_fps=10)

        assert [(video.path, video.kind) for video in found] == [
            ("ds/seq", "images"),
            ("ds/test/d.mp4", "file"),
            ("ds/train/hug/c.mp4", "file"),
            ("a.mp4", "file"),
        ]

    def test_a_folder_without_videos_in_a_list_is_unreadable(self, folder):
        put(folder / "ds" / "notes.txt")
        (folder / "list.txt").write_text("ds\n")

        (video,) = find(folder / "list.txt")

        assert video.failure == ("unreadable", "a folder without videos: ds")

    def test_a_url_in_a_list_is_shown_without_its_secrets(self, folder):
        (folder / "list.txt").write_text("https://me:secret@host/a.mp4?key=secret\n")

        (video,) = find(folder / "list.txt")

        assert (video.path, video.location) == ("https://host/a.mp4", "https://host/a.mp4")
        assert video.failure == ("missing", "a URL: fetch it first: https://host/a.mp4")

    @pytest.mark.parametrize("content", ["video\n", "video,n\n,1\n"])
    def test_an_empty_list_fails(self, folder, content):
        (folder / "list.csv").write_text(content)

        with pytest.raises(SourceError, match=r"the list .*list\.csv names no videos"):
            find(folder / "list.csv")

    @pytest.mark.parametrize("name", ["list.txt", "list.csv", "list.parquet"])
    def test_a_list_without_rows_fails(self, folder, name):
        (folder / name).write_bytes(b"")

        with pytest.raises(SourceError, match=f"{name} is empty"):
            find(folder / name)

    def test_a_damaged_table_fails(self, folder):
        (folder / "list.parquet").write_bytes(b"PAR1 and no more")

        with pytest.raises(SourceError, match=r"list\.parquet cannot be read: "):
            find(folder / "list.parquet")


class TestImageSequences:
    def test_a_folder_of_images_is_one_video(self, tmp_path):
        write_images(tmp_path / "seq", [1, 2, 10])

        (video,) = find(tmp_path, image_fps=12.5)

        assert (video.kind, video.image_fps) == ("images", 12.5)
        assert (video.path, video.location) == (str(tmp_path / "seq"), str(tmp_path / "seq"))
        assert video.size_bytes == sum(p.stat().st_size for p in (tmp_path / "seq").iterdir())

    def test_sidecars_and_hidden_files_do_not_break_a_sequence(self, tmp_path):
        write_images(tmp_path, [1, 2])
        put(tmp_path / "notes.txt")
        put(tmp_path / ".thumb.db")

        assert [video.kind for video in find(tmp_path, image_fps=5)] == ["images"]

    def test_images_beside_a_video_are_one_sequence(self, tmp_path):
        write_images(tmp_path, [1, 2, 3])
        put(tmp_path / "a.mp4")

        sequence, video = find(tmp_path, image_fps=5)

        assert (video.kind, sequence.kind) == ("file", "images")
        assert (video.location, sequence.location) == (str(tmp_path / "a.mp4"), str(tmp_path))
        assert [path.name for path in image_files(sequence.location)] == [
            f"img_0000{n}.png" for n in (1, 2, 3)
        ]

    def test_images_beside_a_video_are_left_out_without_a_rate(self, tmp_path, caplog):
        write_images(tmp_path, [1, 2])
        put(tmp_path / "a.mp4")

        assert names(find(tmp_path)) == ["a.mp4"]
        assert f"left out ({tmp_path}): give their frame rate with --image-fps" in caplog.text

    def test_cameras_in_one_folder_are_several_videos(self, tmp_path):
        for camera in ("camA", "camB", "camC"):
            folder = write_images(tmp_path / camera, [1, 2, 10])
            for path in folder.iterdir():
                path.rename(tmp_path / path.name.replace("img", camera))
            folder.rmdir()

        found = find(tmp_path, image_fps=5)

        assert names(found) == ["camA_*.png", "camB_*.png", "camC_*.png"]
        assert len({video.video_id for video in found}) == 3
        for video in found:
            camera = video.path[-10:-6]
            assert [path.name for path in image_files(video.location)] == [
                f"{camera}_0000{n}.png" if n < 10 else f"{camera}_00010.png" for n in (1, 2, 10)
            ]
            (again,) = find(video.location, image_fps=5)
            assert (again.location, again.video_id) == (video.location, video.video_id)

    def test_a_sequence_in_a_folder_with_any_name(self, tmp_path):
        folder = tmp_path / "[a] *?\udce9"
        write_images(tmp_path / "plain", [1, 2]).rename(folder)
        for number in (1, 2):
            put(folder / f"depth_{number}.png")

        found = find(folder, image_fps=5)

        assert [os.path.basename(video.location) for video in found] == [
            "depth_*.png",
            "img_*.png",
        ]
        assert names(find(found[0].location, image_fps=5)) == ["depth_*.png"]
        assert source_exists(found[1].location)
        assert is_image_sequence(found[1].location)
        assert not is_image_sequence(str(folder / "img_00001.png"))

    def test_a_pattern_that_matches_whole_sequences_names_them(self, tmp_path):
        for name in ("a", "b"):
            for number in (1, 2, 3):
                put(tmp_path / f"{name}_{number}.png")

        assert names(find(tmp_path / "*.png", image_fps=5)) == ["a_*.png", "b_*.png"]
        assert names(find(tmp_path / "a*", image_fps=5)) == ["a_*.png"]
        assert names(find(tmp_path / "*_[12].png")) == ["a_1.png", "a_2.png", "b_1.png", "b_2.png"]

    def test_stacks_are_sequences(self, tmp_path):
        pages = [Image.fromarray(draw_number(n)) for n in range(3)]
        pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
        put(tmp_path / "a.mp4")

        video, stack = find(tmp_path, image_fps=5)
        (alone,) = find(tmp_path / "stack.tif", image_fps=5)

        assert (video.kind, stack.kind, alone.kind) == ("file", "images", "images")
        assert stack.video_id == alone.video_id
        with pytest.raises(SourceError, match=r"stack\.tif is an image sequence"):
            find(tmp_path / "stack.tif")
        (tmp_path / "stack.tif").rename(tmp_path / "renamed.tif")
        assert find(tmp_path / "renamed.tif", image_fps=5)[0].video_id == alone.video_id

    def test_one_image_is_a_file(self, tmp_path):
        write_images(tmp_path, [1])

        assert [video.kind for video in find(tmp_path)] == ["file"]

    def test_folders_inside_a_sequence_are_walked(self, tmp_path):
        write_images(tmp_path, [1, 2])
        put(tmp_path / "more" / "a.mp4")

        assert [video.kind for video in find(tmp_path, image_fps=5)] == ["images", "file"]

    def test_a_sequence_without_a_frame_rate_fails(self, tmp_path):
        write_images(tmp_path / "seq", [1, 2])

        with pytest.raises(
            SourceError, match=r"seq is an image sequence: .* give it with --image-"
        ):
            find(tmp_path)

    def test_the_fingerprint_of_a_sequence_includes_the_frame_rate(self, tmp_path):
        write_images(tmp_path, [1, 2])

        ids = {find(tmp_path, image_fps=fps)[0].video_id for fps in (10, 10.0, 12)}

        assert len(ids) == 2

    def test_the_fingerprint_of_a_sequence_includes_names_and_contents(self, tmp_path):
        folder = write_images(tmp_path / "seq", [1, 2, 3])
        before = find(folder, image_fps=5)[0].video_id
        folder = folder.rename(tmp_path / "moved")
        moved = find(folder, image_fps=5)[0].video_id
        (folder / "img_00003.png").rename(folder / "img_00004.png")
        later = find(folder, image_fps=5)[0].video_id
        shutil.copy(folder / "img_00001.png", folder / "img_00002.png")
        changed = find(folder, image_fps=5)[0].video_id

        assert before == moved
        assert len({moved, later, changed}) == 3


class TestCopies:
    def test_files_of_equal_content_are_one_video_with_copies(self, tmp_path):
        for name in ("a.mp4", "b.mp4", "sub/c.mp4"):
            put(tmp_path / name, b"same")
        put(tmp_path / "d.mp4", b"other")

        a, d = find(tmp_path)

        assert a.path == str(tmp_path / "a.mp4")
        assert a.copies == (
            (str(tmp_path / "b.mp4"), str(tmp_path / "b.mp4")),
            (str(tmp_path / "sub" / "c.mp4"), str(tmp_path / "sub" / "c.mp4")),
        )
        assert d.copies == ()

    def test_the_first_source_is_kept_and_others_are_copies(self, tmp_path):
        for name in ("a.mp4", "b.mp4"):
            put(tmp_path / name, b"same")

        (video,) = find(tmp_path / "b.mp4", tmp_path)

        assert video.path == str(tmp_path / "b.mp4")
        assert [path for path, _ in video.copies] == [str(tmp_path / "a.mp4")]

    def test_two_names_of_one_file_are_copies(self, tmp_path):
        put(tmp_path / "a.mp4")
        os.link(tmp_path / "a.mp4", tmp_path / "hard.mp4")
        (tmp_path / "soft.mp4").symlink_to("a.mp4")

        (video,) = find(tmp_path)

        assert [os.path.basename(path) for path, _ in video.copies] == ["hard.mp4", "soft.mp4"]


def test_progress_is_reported_for_every_file(tmp_path):
    for number in range(5):
        put(tmp_path / f"{number}.mp4")
    calls = []

    find(tmp_path, progress=lambda done, total: calls.append((done, total)))

    assert calls == [(n, 5) for n in range(1, 6)]


def test_sources_keep_their_order(tmp_path):
    for name in ("z/1.mp4", "a/2.mp4"):
        put(tmp_path / name)

    assert names(find(tmp_path / "z", tmp_path / "a")) == ["1.mp4", "2.mp4"]


def test_all_files_are_closed(tmp_path):
    for number in range(20):
        put(tmp_path / f"{number}.mp4")

    find(tmp_path)

    assert [path for path in open_files() if path.startswith(str(tmp_path))] == []


def open_files():
    """Paths of the files that this process has open."""
    paths = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            paths.append(os.readlink(descriptor))
    return paths


class TestStills:
    @pytest.mark.parametrize("name", ["cover.png", "cover.jpg", "a.webp", "a.gif", "a.tif"])
    def test_a_still_beside_videos_is_left_out(self, tmp_path, name, caplog):
        put(tmp_path / "a.mp4")
        Image.fromarray(draw_number(3)).save(tmp_path / name)

        assert names(find(tmp_path)) == ["a.mp4"]
        suffix = os.path.splitext(name)[1]
        assert f"1 still picture beside videos left out ({suffix} 1): they show" in caplog.text

    def test_heif_is_a_still(self, tmp_path):
        put(tmp_path / "a.mp4")
        put(tmp_path / "b.heic", b"\0\0\0\x18ftypheic\0\0\0\0")
        put(tmp_path / "c.heic", b"\0\0\0\x18ftyphevc\0\0\0\0")

        assert names(find(tmp_path)) == ["a.mp4", "c.heic"]

    @pytest.mark.parametrize("name", ["b.webp", "b.gif", "b.png"])
    def test_an_animation_is_a_video(self, tmp_path, name):
        put(tmp_path / "a.mp4")
        pages = [Image.fromarray(draw_number(n)) for n in range(3)]
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])

        assert names(find(tmp_path)) == ["a.mp4", name]

    def test_animations_are_no_sequence(self, tmp_path):
        for name in ("b1.webp", "b2.webp"):
            pages = [Image.fromarray(draw_number(n)) for n in range(3)]
            pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
            put(tmp_path / "x.txt")

        assert [video.kind for video in find(tmp_path)] == ["file"], "copies of each other"

    def test_thumbnails_are_no_sequence(self, tmp_path):
        for number in (1, 2, 3):
            put(tmp_path / f"clip{number}.mp4")
            write_images(tmp_path, [number])
            (tmp_path / f"img_0000{number}.png").rename(tmp_path / f"clip{number}_small.png")

        assert names(find(tmp_path, image_fps=5)) == ["clip1.mp4", "clip2.mp4", "clip3.mp4"]

    def test_a_still_beside_a_sequence_is_no_frame(self, tmp_path):
        write_images(tmp_path, [1, 2, 3])
        put(tmp_path / "thumb.png")

        (video,) = find(tmp_path, image_fps=5)

        assert video.location == str(tmp_path / "img_*.png")

    def test_strict_keeps_stills(self, tmp_path):
        put(tmp_path / "a.mp4")
        put(tmp_path / "cover.png")

        assert names(find(tmp_path, strict=True)) == ["a.mp4", "cover.png"]

    def test_a_still_that_is_named_is_not_left_out(self, tmp_path):
        put(tmp_path / "cover.png")

        assert names(find(tmp_path / "cover.png")) == ["cover.png"]

    @pytest.mark.parametrize("name", ["GX010001.THM", "GL010001.LRV", "DJI_0001.LRF"])
    def test_sidecars_of_cameras_are_left_out(self, tmp_path, video_bytes, name):
        put(tmp_path / "a.mp4")
        put(tmp_path / name, video_bytes)

        assert names(find(tmp_path)) == ["a.mp4"]
        assert names(find(tmp_path / name)) == [name]
