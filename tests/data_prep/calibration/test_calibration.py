"""Calibration files: all common layouts, exact round trips, and a one-line error for every bad file."""

import importlib.util
import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pytest

from data_prep.calibration.files import read_calibration, write_calibration
from pipeline.conventions import opencv_from_colmap
from pipeline.errors import LumenError

SIZE = (640, 512)
MATRIX = [[401.25, 0.0, 321.125], [0.0, 402.5, 250.0625], [0.0, 0.0, 1.0]]
FOUR = [-0.31, 0.12, 0.001, -0.002]
CAMERAS = {
    "PINHOLE": [401.1, 402.2, 320.3, 256.4],
    "OPENCV": [401.1, 402.2, 320.3, 256.4, -0.31, 0.12, 1e-5, -2e-4],
    "OPENCV_FISHEYE": [231.1, 232.2, 320.3, 256.4, 0.0512345678901234, -0.02, 3e-7, -0.001],
    "FULL_OPENCV": [401.1, 402.2, 320.3, 256.4, -0.31, 0.12, 1e-3, -2e-3, 0.05, 0.01, 0.02, 0.003],
}


def make_camera(model: str) -> pycolmap.Camera:
    return pycolmap.Camera(model=model, width=SIZE[0], height=SIZE[1], params=CAMERAS[model])


def plain(**changes) -> dict:
    content = {"image_width": SIZE[0], "image_height": SIZE[1], "camera_matrix": MATRIX, "dist_coeffs": FOUR}
    return {key: value for key, value in {**content, **changes}.items() if value is not None}


def read_plain(tmp_path: Path, **changes) -> pycolmap.Camera:
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(plain(**changes)))
    return read_calibration(path, SIZE)


@pytest.mark.parametrize("model", CAMERAS)
def test_written_file_reads_back_exactly(tmp_path, model):
    path = tmp_path / "äußere Kamera.yaml"
    camera = make_camera(model)
    extra = {
        "reprojection_error_px": 0.1 + 0.2,
        "number_of_views": 12,
        "images": ['frame "1".jpg', "Bild ä.jpg"] * 20,
        "per_image_error_px": (np.arange(1, 120) / 7e3).tolist(),
    }
    write_calibration(path, camera, extra)
    again = read_calibration(path, SIZE)
    assert again.model_name == model
    assert again.params.tolist() == camera.params.tolist()
    assert (again.width, again.height) == SIZE
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("model", CAMERAS)
def test_opencv_reads_the_written_file_exactly(tmp_path, model):
    path = tmp_path / "calibration.yaml"
    camera = make_camera(model)
    errors = (np.arange(1, 120) / 7e3).tolist()
    write_calibration(path, camera, {"error_px": 1e-7, "images": ['a "1".jpg', "b.jpg"], "errors_px": errors})
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
    matrix = storage.getNode("camera_matrix").mat()
    assert [matrix[0, 0], matrix[1, 1]] == camera.params[:2].tolist()
    assert matrix[:2, 2].tolist() == opencv_from_colmap(camera.params[2:4]).tolist()
    expected = camera.params[4:].tolist() or [0.0] * 4
    assert storage.getNode("distortion_coefficients").mat().ravel().tolist() == expected
    assert storage.getNode("camera_model").string() == model
    assert (storage.getNode("image_width").real(), storage.getNode("image_height").real()) == SIZE
    assert storage.getNode("error_px").real() == 1e-7
    images = storage.getNode("images")
    assert [images.at(index).string() for index in range(images.size())] == ['a "1".jpg', "b.jpg"]
    node = storage.getNode("errors_px")
    assert [node.at(index).real() for index in range(node.size())] == errors


@pytest.mark.parametrize("model", ["OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE"])
def test_half_pixel_agrees_with_opencv_and_colmap(tmp_path, model):
    """One file, two readers: a point projects to pixels that differ by the half pixel between the conventions."""
    path = tmp_path / "calibration.yaml"
    write_calibration(path, make_camera(model), {})
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
    matrix = storage.getNode("camera_matrix").mat()
    distortion = storage.getNode("distortion_coefficients").mat()
    points = np.array([[0.2, -0.1, 1.0], [-0.3, 0.25, 1.1], [0.0, 0.0, 2.0]])
    project = cv2.fisheye.projectPoints if model == "OPENCV_FISHEYE" else cv2.projectPoints
    by_opencv = project(points[:, None], np.zeros(3), np.zeros(3), matrix, distortion)[0].reshape(-1, 2)
    by_colmap = read_calibration(path, SIZE).img_from_cam(points)
    np.testing.assert_allclose(by_colmap - by_opencv, 0.5, atol=1e-9)


@pytest.mark.parametrize("suffix", [".yaml", ".json", ".xml"])
@pytest.mark.parametrize("names", [("camera_matrix", "distortion_coefficients"), ("K", "D"), ("cameraMatrix", "dist")])
def test_reads_files_written_by_opencv(tmp_path, suffix, names):
    path = tmp_path / f"calibration{suffix}"
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    storage.write("image_width", SIZE[0])
    storage.write("image_height", SIZE[1])
    storage.write(names[0], np.array(MATRIX))
    storage.write(names[1], np.array([[*FOUR, 0.25]]).T)
    storage.release()
    camera = read_calibration(path, SIZE)
    assert camera.model_name == "FULL_OPENCV"
    assert camera.params.tolist() == [401.25, 402.5, 321.625, 250.5625, *FOUR, 0.25, 0, 0, 0]


@pytest.mark.parametrize(
    ("changes", "model", "coefficients"),
    [
        ({"dist_coeffs": None}, "PINHOLE", []),
        ({"dist_coeffs": [0, 0, 0, 0, 0]}, "PINHOLE", []),
        ({"dist_coeffs": []}, "PINHOLE", []),
        ({"dist_coeffs": FOUR}, "OPENCV", FOUR),
        ({"dist_coeffs": [*FOUR, 0]}, "OPENCV", FOUR),
        ({"dist_coeffs": [*FOUR, 0.5]}, "FULL_OPENCV", [*FOUR, 0.5, 0, 0, 0]),
        ({"dist_coeffs": [[*FOUR, 0.5, 1, 2, 3]]}, "FULL_OPENCV", [*FOUR, 0.5, 1, 2, 3]),
        ({"dist_coeffs": [*FOUR, 0.5, 1, 2, 3, 0, 0, 0, 0]}, "FULL_OPENCV", [*FOUR, 0.5, 1, 2, 3]),
        ({"camera_model": "OPENCV_FISHEYE"}, "OPENCV_FISHEYE", FOUR),
        ({"distortion_model": "equidistant", "camera_model": "pinhole"}, "OPENCV_FISHEYE", FOUR),
        ({"distortion_model": "fisheye"}, "OPENCV_FISHEYE", FOUR),
        ({"fisheye_model": 1}, "OPENCV_FISHEYE", FOUR),
        ({"fisheye_model": 0}, "OPENCV", FOUR),
        ({"distortion_model": "plumb_bob", "dist_coeffs": [*FOUR, 0]}, "OPENCV", FOUR),
        ({"distortion_model": "plumb_bob", "dist_coeffs": [*FOUR, 0.5]}, "FULL_OPENCV", [*FOUR, 0.5, 0, 0, 0]),
        ({"distortion_model": "rational_polynomial"}, "FULL_OPENCV", [*FOUR, 0, 0, 0, 0]),
        ({"camera_model": "PINHOLE", "dist_coeffs": [0, 0, 0, 0]}, "PINHOLE", []),
        ({"camera_model": "OPENCV", "dist_coeffs": [0, 0, 0, 0]}, "OPENCV", [0, 0, 0, 0]),
        ({"camera_matrix": None, "K": [value for row in MATRIX for value in row]}, "OPENCV", FOUR),
        ({"image_width": None, "image_height": None, "image_size": [640, 512]}, "OPENCV", FOUR),
    ],
)
def test_model_by_name_or_coefficients(tmp_path, changes, model, coefficients):
    camera = read_plain(tmp_path, **changes)
    assert camera.model_name == model
    assert camera.params.tolist() == [401.25, 402.5, 321.625, 250.5625, *coefficients]


def test_reads_ros_camera_info(tmp_path, caplog):
    path = tmp_path / "camera_info.yaml"
    path.write_text(
        "image_width: 640\nimage_height: 512\ncamera_name: scope\n"
        "camera_matrix:\n  rows: 3\n  cols: 3\n  data: [401.25, 0, 321.125, 0, 402.5, 250.0625, 0, 0, 1]\n"
        "distortion_model: plumb_bob\n"
        "distortion_coefficients:\n  rows: 1\n  cols: 5\n  data: [-0.31, 0.12, 1e-3, -0.002, 0.0]\n"
    )
    with caplog.at_level(logging.INFO, "data_prep"):
        camera = read_calibration(path, SIZE)
    assert camera.model_name == "OPENCV"
    assert camera.params.tolist() == [401.25, 402.5, 321.625, 250.5625, *FOUR]
    assert "OPENCV" in caplog.text and "is named" in caplog.text


def test_reads_cameras_txt(tmp_path):
    path = tmp_path / "cameras.txt"
    path.write_text(
        "# Camera list\n#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]\n1 SIMPLE_RADIAL 640 512 400 320 256 .1\n"
    )
    camera = read_calibration(path, SIZE)
    assert (camera.model_name, camera.params.tolist()) == ("SIMPLE_RADIAL", [400, 320, 256, 0.1])


@pytest.mark.parametrize(
    "text",
    [
        "231 232 320.5 256 0.05 -0.02 3e-7 -0.001\n",
        "# fx fy cx cy\n231, 232, 320.5, 256,\n# k1 k2 k3 k4\n0.05, -0.02, 3e-7, -0.001,\n",
        "231\n232\n320.5\n256\n0.05\n-0.02\n3e-7\n-0.001 # end",
    ],
)
def test_reads_eight_numbers(tmp_path, caplog, text):
    path = tmp_path / "fisheye.txt"
    path.write_text(text)
    with caplog.at_level(logging.INFO, "data_prep"):
        camera = read_calibration(path, SIZE)
    assert camera.model_name == "OPENCV_FISHEYE"
    assert camera.params.tolist() == [231, 232, 320.5, 256, 0.05, -0.02, 3e-7, -0.001]
    assert "COLMAP's convention" in caplog.text and "640x512" in caplog.text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        (" \n\n", "empty"),
        ("# only this\n", "only comments"),
        ("hello world, this is a letter", "neither"),
        ("a: [1, 2\nb: 3", "line 2"),
        ("%YAML:1.0\n---\na: [1, 2\nb: 3", "line 4"),
        ("<html></html>", "not OpenCV's"),
        ("<opencv_storage>", "not valid XML"),
        ('{"a": 1}', "no camera matrix"),
        ("1 2 3", "holds 3 numbers"),
        ("231 232 320 256 0 0 0 nan", "not finite"),
        ("-231 232 320 256 0 0 0 0", "not positive"),
        ("0.5 0.5 320 256 0 0 0 0", "plausible"),
        ("231 232 4000 256 0 0 0 0", "far outside"),
        ("1 OPENCV 640 512 400 400 320 256 0 0 0", "parameters"),
        ("1 NOTAMODEL 640 512 400 400 320 256", "NOTAMODEL"),
        ("1 PINHOLE 640 512 400 400 320 x", "'x'"),
        ("1 PINHOLE 640 51.2 400 400 320 256", "whole"),
        ("1 EQUIRECTANGULAR 640 512 640 512", "pinhole"),
        ("1 PINHOLE 640 512 400 400 320 256\n2 OPENCV 640 480 400 400 320 240 0 0 0 0", "1 PINHOLE 640x512; 2 OPENCV"),
        ("1 PINHOLE 1280 1024 800 800 640 512", "1280x1024"),
    ],
)
def test_bad_text(tmp_path, text, problem):
    path = tmp_path / "some file.txt"
    path.write_text(text)
    with pytest.raises(LumenError) as error:
        read_calibration(path, SIZE)
    message = str(error.value)
    assert "some file.txt" in message and problem in message and "\n" not in message


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"dist_coeffs": [0.1, 0.2, 0.3]}, "3 distortion"),
        ({"dist_coeffs": [*FOUR, 0.1], "camera_model": "OPENCV_FISHEYE"}, "4 distortion"),
        ({"dist_coeffs": None, "camera_model": "OPENCV_FISHEYE"}, "has 0"),
        ({"dist_coeffs": [0.1] * 12}, "thin-prism"),
        ({"dist_coeffs": ["a", 0, 0, 0]}, "'a'"),
        ({"dist_coeffs": [float("nan"), 0, 0, 0]}, "not finite"),
        ({"camera_model": "PINHOLE"}, "PINHOLE"),
        ({"camera_model": "OPENVC"}, "OPENVC"),
        ({"camera_matrix": [1, 2, 3]}, "3 x 3"),
        ({"camera_matrix": [[401, 0.5, 320], [0, 402, 256], [0, 0, 1]]}, "skew"),
        ({"camera_matrix": [[401, 0, 0], [0, 402, 0], [320, 256, 1]]}, "is not [fx 0 cx"),
        ({"camera_matrix": [[-401, 0, 320], [0, 402, 256], [0, 0, 1]]}, "not positive"),
        ({"camera_matrix": [[float("inf"), 0, 320], [0, 402, 256], [0, 0, 1]]}, "not finite"),
        ({"camera_matrix": {"rows": 3, "cols": 3, "data": [1, 2]}}, "the size 3 x 3"),
        ({"image_width": 1280, "image_height": 1024}, "multiply fx, fy, cx, cy by 0.5"),
        ({"image_width": 720, "image_height": 576}, "720x576"),
        ({"image_width": 720, "image_height": 512}, "cropped"),
        ({"image_width": "wide"}, "'wide'"),
        ({"image_height": None}, "width and a height"),
    ],
)
def test_bad_values(tmp_path, changes, problem):
    with pytest.raises(LumenError) as error:
        read_plain(tmp_path, **changes)
    message = str(error.value)
    assert "calibration.json" in message and problem in message and "\n" not in message


def test_bad_files(tmp_path):
    with pytest.raises(LumenError, match="no such file"):
        read_calibration(tmp_path / "missing.yaml", SIZE)
    with pytest.raises(LumenError, match="folder"):
        read_calibration(tmp_path, SIZE)
    binary = tmp_path / "video.mp4"
    binary.write_bytes(b"\x00\x00\x00\x20ftypisom\xff\xfe")
    with pytest.raises(LumenError, match="not text"):
        read_calibration(binary, SIZE)


def test_missing_image_size_is_logged(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "data_prep"):
        camera = read_plain(tmp_path, image_width=None, image_height=None)
    assert (camera.width, camera.height) == SIZE
    assert "no image size" in caplog.text


def test_models_that_opencv_lacks_are_not_written(tmp_path):
    camera = pycolmap.Camera(model="FOV", width=640, height=512, params=[400, 400, 320, 256, 0.5])
    with pytest.raises(LumenError, match="FOV"):
        write_calibration(tmp_path / "calibration.yaml", camera, {})


def test_reads_published_endoscope_calibrations():
    package = importlib.util.find_spec("endocal")
    if package is None or package.origin is None:
        pytest.skip("the package endocal is not installed")
    data = Path(package.origin).parent / "data"
    first = read_calibration(data / "sample_001" / "calibration_001-010.xml", (768, 710))
    assert first.model_name == "FULL_OPENCV"
    np.testing.assert_allclose(
        first.params[:5], [649.504721, 649.708188, 420.619666, 361.971512, -0.488122815], rtol=1e-8
    )
    second = read_calibration(data / "sample_002" / "calibration_001-011.yml", (1920, 1080))
    np.testing.assert_allclose(second.params[:4], [438.07942505, 438.36362406, 996.33144378, 548.30510104])
