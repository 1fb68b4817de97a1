"""File names that other programs depend on."""

from pathlib import Path

from pipeline.paths import RunPaths, SequencePaths


def test_file_names_of_a_sequence() -> None:
    sequence = SequencePaths(Path("out/ü x"))
    assert sequence.sequence == Path("out/ü x/sequence.yaml")
    assert sequence.mask == Path("out/ü x/undistorted_mask.bmp")
    assert sequence.image(2603) == Path("out/ü x/images/00002603.jpg")
    assert sequence.frame_mask(2603) == Path("out/ü x/masks/00002603.jpg.png")


def test_a_frame_mask_has_the_name_that_colmap_expects() -> None:
    sequence = SequencePaths(Path("s"))
    name = sequence.image(7).relative_to(sequence.images)
    assert sequence.frame_mask(7) == sequence.frame_masks / f"{name}.png"


def test_names_of_images_sort_by_frame_index() -> None:
    sequence = SequencePaths(Path("s"))
    indices = [0, 9, 10, 99_999, 100_000, 12_345_678]
    names = [str(sequence.image(index)) for index in indices]
    assert names == sorted(names)


def test_segments_are_named_as_in_published_training_data() -> None:
    assert SequencePaths.segment_name(2603, 2984, 1, 0) == "_start_002603_end_002984_stride_1_segment_00"


def test_file_names_of_a_run(tmp_path: Path) -> None:
    run = RunPaths(tmp_path)
    assert run.manifest == tmp_path / "manifest.json"
    assert run.config("extract") == tmp_path / "extract.yaml"
    assert run.report("extract") == tmp_path / "reports" / "extract.json"
    assert run.contact_sheet == tmp_path / "contact_sheet.png"


def test_the_sequences_of_a_run_are_sorted_by_name(tmp_path: Path) -> None:
    run = RunPaths(tmp_path)
    assert run.sequences() == []
    for segment in (1, 0):
        found = run.sequence(SequencePaths.segment_name(0, 10, 1, segment))
        found.root.mkdir()
        found.sequence.touch()
    (tmp_path / "reports").mkdir()
    assert [sequence.root.name[-2:] for sequence in run.sequences()] == ["00", "01"]
